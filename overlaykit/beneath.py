"""Open files beneath a directory and follow no symbolic link: flags of open(2) and openat2(2)."""

from __future__ import annotations

import os

from overlaykit import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

BENEATH: Final = _native.RESOLVE_BENEATH | _native.RESOLVE_NO_SYMLINKS
"""`resolve` of openat2: EXDEV for a path that leaves the directory, ELOOP for a symbolic link in it."""

NEW_FILE: Final = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC

INODE: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opens the inode of a name, a symbolic link too."""
