"""Owner and mode kept in an attribute, for uppers whose files cannot be given away: NFS, or one user's own storage.

The attribute holds `UID:GID:MODE` (decimal, decimal, octal) and counts for regular files and directories, as in
fuse-overlayfs (its option xattr_permissions) and in the storage that podman keeps with `force_mask`. A layer whose root
has such an attribute is read so, one that any user can make (`user.`) only if it is asked for: else the owner
of a directory could put a set-user-ID program of root's into it. The real files are the daemon's own, and open to it
whatever the mode shown.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Final, NamedTuple

from overlaykit import _native

SECURITY: Final = b"security.fuseoverlayfs.override_stat"
"""`xattr_permissions=1`: only root can set it."""
CONTAINERS: Final = b"user.containers.override_stat"
"""`xattr_permissions=2`: the file's owner can."""
_FIELDS: Final = re.compile(rb"([0-9]{1,10}):([0-9]{1,10}):([0-7]{1,7})(?::|\Z)")
"""Some write the type behind them."""
_MOST_IDS: Final = (1 << 32) - 2  # the last number means "none" (chown(2))

_ANYBODYS: Final = (
    CONTAINERS,
    b"user.fuseoverlayfs.override_stat",
)  # the latter before version 1.14
NAMES: Final = (SECURITY, *_ANYBODYS)


class Override(NamedTuple):
    """What is shown instead of a file's own; `mode` is the permission bits."""

    uid: int
    gid: int
    mode: int

    def encode(self) -> bytes:
        return b"%d:%d:%o" % self

    @classmethod
    def of(cls, st: os.stat_result) -> Override:
        return cls(st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode))


def applies(mode: int) -> bool:
    """Whether files of this kind have one: others cannot hold a `user.` attribute (xattr(7))."""
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def find(root: bytes, *, anybodys: bool) -> bytes | None:
    """The attribute by which a layer is to be read, seen on its root; None for most. `anybodys`: or a `user.` one."""
    names = NAMES if anybodys else (SECURITY,)
    return next((name for name in names if _get(root, name) is not None), None)


def read(path: bytes | int, name: bytes) -> Override | None:
    """What a file's attribute says; None if it has none. Raises OSError (EIO) for garbage."""
    raw = _get(path, name)
    if raw is None:
        return None
    fields = _FIELDS.match(raw)
    if fields is None or any(int(number) > _MOST_IDS for number in fields.group(1, 2)):
        raise OSError(errno.EIO, f"an attribute {os.fsdecode(name)} that is no UID:GID:MODE")
    uid, gid, mode = fields.groups()
    return Override(int(uid), int(gid), stat.S_IMODE(int(mode, 8)))


def write(path: bytes | int, name: bytes, override: Override) -> None:
    """Show `override` from now on, and let the daemon at the file; `path` is followed."""
    mode = os.stat(path).st_mode
    own = stat.S_IRWXU if stat.S_ISDIR(mode) else stat.S_IRUSR | stat.S_IWUSR
    if own & ~mode:  # a mode may forbid the attribute
        os.chmod(path, stat.S_IMODE(mode) | own)
    os.setxattr(path, name, override.encode())
    os.chmod(path, override.mode & 0o777 | own)


def _get(path: bytes | int, name: bytes) -> bytes | None:
    try:
        return _native.xattr_or_none(path, name)
    except PermissionError:
        return None
