"""Open files beneath a directory and follow no symbolic link: flags of open(2) and openat2(2)."""

from __future__ import annotations

import errno
import os

from overlaykit import _native
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

BENEATH: Final = _native.RESOLVE_BENEATH | _native.RESOLVE_NO_SYMLINKS
"""`resolve` of openat2: EXDEV for a path that leaves the directory, ELOOP for a symbolic link in it."""

NEW_FILE: Final = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC

INODE: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opens the inode of a name, a symbolic link too."""

_TRIES: Final = 10000


def open_in_root(root: int, path: str, flags: int, resolve: int = _native.RESOLVE_IN_ROOT) -> int:
    """Open a path below a root directory, which no symbolic link leaves. Raises: OSError.

    A path with ".." fails with EAGAIN if anything on the machine is renamed or mounted meanwhile.
    """
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            return _native.openat2(root, path, flags, 0, resolve)
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
