"""Resolve a path beneath a directory and follow no symbolic link: openat2(2)."""

from __future__ import annotations

from overlaykit import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

BENEATH: Final = _native.RESOLVE_BENEATH | _native.RESOLVE_NO_SYMLINKS
"""`resolve` of openat2: EXDEV for a path that leaves the directory, ELOOP for a symbolic link in it."""
