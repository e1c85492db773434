"""File systems for tests: a small one whose free space a test sets, and images on loop devices (root only)."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ..overlay.stack import Stack
from ..posix import syscalls

Kind: TypeAlias = Literal["inodes", "pages"]

PLENTY = 1024


class Disk(Protocol):
    """A file system whose free space a test sets."""

    def leave(self, kind: Kind, number: int) -> None:
        """Leave `number` inodes or pages free."""


@dataclass(frozen=True)
class Memory:
    """A tmpfs; a remount changes its size."""

    path: bytes

    def leave(self, kind: Kind, number: int) -> None:
        status = os.statvfs(self.path)
        taken = {
            "inodes": status.f_files - status.f_ffree,
            "pages": status.f_blocks - status.f_bfree,
        }
        limit = {of: taken[of] + (number if of == kind else PLENTY) for of in taken}
        size = max(limit["pages"], 1) * status.f_frsize  # 0 means no limit
        options = b"nr_inodes=%d,size=%d" % (limit["inodes"], size)
        syscalls.mount(b"none", self.path, None, syscalls.MS_REMOUNT, options)


@dataclass(frozen=True)
class Filled:
    """A mounted image, filled by one file."""

    path: str

    def leave(self, kind: Kind, number: int) -> None:
        assert kind == "pages"
        block = os.statvfs(self.path).f_frsize
        with open(os.path.join(self.path, "filling"), "ab") as filling:
            size = os.fstat(filling.fileno()).st_size
            step = PLENTY * block
            while step >= block:
                try:
                    syscalls.fallocate(filling.fileno(), 0, size, step)
                    size += step
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2
            filling.truncate(max(size - number * block, 0))


@contextlib.contextmanager
def memory(path: str, options: bytes = b"") -> Iterator[Memory]:
    os.mkdir(path)
    syscalls.mount(b"none", os.fsencode(path), b"tmpfs", 0, options)
    try:
        yield Memory(os.fsencode(path))
    finally:
        syscalls.umount2(os.fsencode(path), syscalls.MNT_DETACH)


@contextlib.contextmanager
def image(
    directory: str, *mkfs: str, megabytes: int, options: str = ""
) -> Iterator[tuple[str, str]]:
    """Mount a file system that the command `mkfs` makes in a file; yields the paths of file and mountpoint."""
    file, path = os.path.join(directory, "image"), os.path.join(directory, "disk")
    with open(file, "wb") as made:
        made.truncate(megabytes << 20)
    subprocess.run([*mkfs, file], check=True, capture_output=True)
    with mounted_image(file, path, options):
        yield file, path


@contextlib.contextmanager
def mounted_image(file: str, path: str, options: str = "") -> Iterator[None]:
    os.mkdir(path)
    subprocess.run(["mount", "-o", f"loop,{options}".rstrip(","), file, path], check=True)
    try:
        yield
    finally:
        # Not lazily: the loop device must be free afterwards.
        subprocess.run(["umount", path], check=True)
        os.rmdir(path)


@contextlib.contextmanager
def cut_short(file: str, megabytes: int) -> Iterator[None]:
    """Shrink the loop device of a mounted image within the block: I/O beyond its end fails (EIO)."""
    size = os.path.getsize(file)
    _resize(file, megabytes << 20)
    try:
        yield
    finally:
        _resize(file, size)


def _resize(file: str, size: int) -> None:
    os.truncate(file, size)
    found = subprocess.run(
        ["losetup", "--associated", file, "--noheadings", "--output", "NAME"],
        check=True,
        capture_output=True,
        text=True,
    )
    subprocess.run(["losetup", "--set-capacity", found.stdout.strip()], check=True)


def put_upper_on(stack: Stack, path: str) -> None:
    """Put the stack's upper and work directory below `path`. Requires: they are not made yet."""
    stack.upper, stack.work = os.path.join(path, "upper"), os.path.join(path, "work")


@contextlib.contextmanager
def upper_on_a_small_disk(stack: Stack) -> Iterator[None]:
    """Put the stack's upper and work directory on a tmpfs of one MiB. Requires: they are not made yet."""
    path = os.path.join(stack.directory, "disk")
    with memory(path, b"size=1m"):
        put_upper_on(stack, path)
        yield
