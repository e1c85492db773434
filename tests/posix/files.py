"""Helpers of the behaviours that read, write and look at files."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final

from . import syscalls

_CLOCK_REALTIME_COARSE: Final = 5
"""The clock of file times (linux/time.h)."""


def write_file(path: str | bytes, content: bytes, mode: int = 0o644) -> None:
    """Replace the contents of a file, and create it if it is missing."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def read_file(path: str | bytes) -> bytes:
    """The contents of a file."""
    with open(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def opened(path: str | bytes, flags: int, mode: int = 0o644) -> Iterator[int]:
    """Open a file for the block."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def mode_of(path: str | bytes) -> int:
    """The permission bits, set-id bits and sticky bit of the file itself."""
    return os.lstat(path).st_mode & 0o7777


def ino_of(path: str | bytes) -> int:
    return os.lstat(path).st_ino


def list_names(path: str | bytes = ".") -> list[str]:
    return sorted(os.fsdecode(name) for name in os.listdir(path))


def drop_caches() -> None:
    """Make the kernel drop unused dentries, inodes and pages: a remount shrinks its caches (super_operations)."""
    mount = os.fsencode(os.path.dirname(os.getcwd()))
    with contextlib.suppress(PermissionError):  # a plain directory is no mount
        syscalls.mount(b"none", mount, None, syscalls.MS_REMOUNT)


def wait_for_clock_tick() -> None:
    """Wait two ticks of the clock of file times, so that the next change gets a later time."""
    start = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    tick = time.clock_getres(_CLOCK_REALTIME_COARSE)
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) < start + 2e9 * tick:
        os.sched_yield()
