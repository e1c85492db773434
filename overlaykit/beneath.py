"""Resolve a path beneath a directory and follow no symbolic link: openat2(2)."""

from __future__ import annotations

from typing import Final

from overlaykit import _native

BENEATH: Final = _native.RESOLVE_BENEATH | _native.RESOLVE_NO_SYMLINKS
"""`resolve` of openat2: EXDEV for a path that leaves the directory, ELOOP for a symbolic link in it."""
