"""File systems with one fault each, to test the oracle."""

from __future__ import annotations

import os
import stat
from typing import ClassVar

from ..posix import syscalls
from ..posix.systems import KernelOverlay, Stack, overlay_options


class LosesWhiteouts:
    """Drops the whiteouts at the top of its upper when it is unmounted."""

    name: ClassVar[str] = "loses-whiteouts"
    takes_root: ClassVar[bool] = True

    def __init__(self, *, unprivileged: bool) -> None:
        self._right = KernelOverlay(unprivileged)
        self._upper = b""

    def mount(self, stack: Stack, target: bytes) -> None:
        self._upper = stack.upper or b""
        self._right.mount(stack, target)

    def unmount(self, target: bytes) -> None:
        self._right.unmount(target)
        for entry in list(os.scandir(self._upper)):
            if stat.S_ISCHR(entry.stat(follow_symlinks=False).st_mode):
                os.unlink(entry.path)


class RoundsTimes(LosesWhiteouts):
    """Rounds the times of the files at the top of its upper to seconds when it is unmounted."""

    name: ClassVar[str] = "rounds-times"

    def unmount(self, target: bytes) -> None:
        self._right.unmount(target)
        for entry in list(os.scandir(self._upper)):
            if entry.is_file(follow_symlinks=False):
                status = entry.stat()
                os.utime(entry.path, (int(status.st_atime), int(status.st_mtime)))


class WritesIntoTheLower:
    """Writes a change of a file at the top through to the lower."""

    name: ClassVar[str] = "writes-into-the-lower"
    takes_root: ClassVar[bool] = True

    def __init__(self, *, unprivileged: bool) -> None:
        self._right = KernelOverlay(unprivileged)
        self._stack = Stack(())

    def mount(self, stack: Stack, target: bytes) -> None:
        self._stack = stack
        self._right.mount(stack, target)

    def unmount(self, target: bytes) -> None:
        self._right.unmount(target)
        for entry in list(os.scandir(self._stack.upper or b"")):
            below = os.path.join(self._stack.lowers[0], entry.name)
            if entry.is_file(follow_symlinks=False) and os.path.isfile(below):
                with open(entry.path, "rb") as upper, open(below, "wb") as lower:
                    lower.write(upper.read())


class BreaksLinks:
    """Copies up each name of a hard-linked file separately: the kernel's overlayfs without its index."""

    name: ClassVar[str] = "breaks-links"
    takes_root: ClassVar[bool] = True

    def __init__(self, *, unprivileged: bool) -> None:
        self._unprivileged = unprivileged

    def mount(self, stack: Stack, target: bytes) -> None:
        options = overlay_options(stack, unprivileged=self._unprivileged)
        options = options.replace(b"index=on", b"index=off")
        syscalls.mount(b"overlay", target, b"overlay", 0, options)

    def unmount(self, target: bytes) -> None:
        syscalls.umount2(target)


class CannotMoveDirectories(BreaksLinks):
    """Refuses to rename a directory that has a lower part: the kernel's overlayfs without redirects."""

    name: ClassVar[str] = "cannot-move-directories"

    def mount(self, stack: Stack, target: bytes) -> None:
        options = overlay_options(stack, unprivileged=self._unprivileged)
        options = options.replace(b"redirect_dir=on", b"redirect_dir=nofollow")
        syscalls.mount(b"overlay", target, b"overlay", 0, options)
