"""Owner and mode in an attribute, for uppers where chown(2) fails: on NFS, or in one user's storage.

The attribute holds `UID:GID:MODE` (decimal, decimal, octal) for regular files and directories, as in fuse-overlayfs
(its option xattr_permissions) and in podman's storage with `force_mask`. A layer is read so if its root has such an
attribute. An attribute that any user can set (`user.`) counts only on request: otherwise the owner of a directory could
put a set-user-ID program of root's into it. The daemon owns the real files, and their real modes let it read and write
them.
"""

from __future__ import annotations

import errno
import os
import stat

from overlaykit import attributes
from overlaykit.lean import NamedTuple
from overlaykit.privilege import ALL_IDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SECURITY: Final = b"security.fuseoverlayfs.override_stat"
"""`xattr_permissions=1`: set by root only."""
CONTAINERS: Final = b"user.containers.override_stat"
"""`xattr_permissions=2`: set by the file's owner."""

# fuse-overlayfs before version 1.14.
_OLD_USER: Final = b"user.fuseoverlayfs.override_stat"
NAMES: Final = (SECURITY, CONTAINERS, _OLD_USER)


class Override(NamedTuple):
    """The owner and the permission bits shown instead of the inode's own."""

    uid: int
    gid: int
    mode: int

    def encode(self) -> bytes:
        return b"%d:%d:%o" % self

    @classmethod
    def of(cls, st: os.stat_result) -> Override:
        return cls(st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode))


def applies(mode: int) -> bool:
    """Whether files of this kind can have one: others cannot hold a `user.` attribute (xattr(7))."""
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def find(root: bytes, *, allow_user: bool) -> bytes | None:
    """The attribute of a layer's root that holds owner and mode, if any. `allow_user`: a `user.` one counts."""
    names = NAMES if allow_user else (SECURITY,)
    return next((name for name in names if _get(root, name) is not None), None)


def read(path: bytes | int, name: bytes) -> Override | None:
    """Read a file's attribute; None if it has none.

    Raises: OSError (EIO) for garbage.
    """
    raw = _get(path, name)
    if raw is None:
        return None
    uid, gid, mode = (*raw.split(b":"), b"", b"")[:3]  # the file's type may follow
    if not (_is_id(uid) and _is_id(gid) and 0 < len(mode) <= 7 and not mode.strip(b"01234567")):
        raise OSError(errno.EIO, f"an attribute {os.fsdecode(name)} that is no UID:GID:MODE")
    return Override(int(uid), int(gid), stat.S_IMODE(int(mode, 8)))


def _is_id(number: bytes) -> bool:
    return number.isdigit() and len(number) <= 10 and int(number) < ALL_IDS


def write(path: bytes | int, name: bytes, override: Override) -> None:
    """Set a file's attribute, and a real mode that lets the daemon read and write it. Follows `path`."""
    mode = os.stat(path).st_mode
    own = stat.S_IRWXU if stat.S_ISDIR(mode) else stat.S_IRUSR | stat.S_IWUSR
    if own & ~mode:  # the mode may deny setting the attribute
        os.chmod(path, stat.S_IMODE(mode) | own)
    os.setxattr(path, name, override.encode())
    os.chmod(path, override.mode & 0o777 | own)


def _get(path: bytes | int, name: bytes) -> bytes | None:
    try:
        return attributes.xattr_or_none(path, name)
    except PermissionError:
        return None
