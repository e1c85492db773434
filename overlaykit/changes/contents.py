"""Whether two files hold the same data."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from overlaykit.changes.model import Version
    from overlaykit.overlay.layer import LayerDir

BLOCK: Final = 1 << 18
"""Bytes that are read at once."""


def same_contents(a: Version, b: Version) -> bool:
    """Compare two regular files of one size, up to the first block that differs; holes are not read.

    Equal times do not make equal contents: archives and build tools set times, and a program may restore them. Nothing
    is read of a metacopy, whose data are the old file's.
    Raises: OSError.
    """
    size = a.stat.st_size
    if size == 0 or _is_one(a, b):
        return True
    left = a.open()
    try:
        right = b.open()
        try:
            return same_data(left, right, size)
        finally:
            os.close(right)
    finally:
        os.close(left)


def _is_one(a: Version, b: Version) -> bool:
    """Whether one inode holds the data of both, or the data of neither can be reached."""
    left = a.stat if a.data is None else _data_stat(*a.data)
    right = b.stat if b.data is None else _data_stat(*b.data)
    if left is None or right is None:
        return left is right
    return left.st_ino == right.st_ino and left.st_dev == right.st_dev


def _data_stat(holder: LayerDir | None, name: bytes) -> os.stat_result | None:
    """The inode that holds the data of a metacopy; None: it is out of reach."""
    if holder is None:
        return None
    return os.stat(name, dir_fd=holder.fd(), follow_symlinks=False)


def same_data(left: int, right: int, size: int) -> bool:
    """As `same_contents`, of open files that were not read yet."""
    if size <= BLOCK:
        # A byte more tells one that has grown. A whole block would be mapped and unmapped each time.
        return os.read(left, size + 1) == os.read(right, size + 1)
    for start, end in _data_of_either(left, right, size):
        at = start
        while at < end:
            count = min(BLOCK, end - at)
            block = os.pread(left, count, at)
            if block != os.pread(right, count, at):
                return False
            if not block:  # both were cut
                return True
            at += len(block)
    return True


def _data_of_either(left: int, right: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges in which one of two files has data."""
    at = 0
    while at < size:
        start = min(_next(left, at, os.SEEK_DATA, size), _next(right, at, os.SEEK_DATA, size))
        if start >= size:
            return
        end = min(
            max(_next(left, start, os.SEEK_HOLE, size), _next(right, start, os.SEEK_HOLE, size)),
            size,
        )
        yield start, end
        at = max(end, start + 1)  # a file that was cut since has neither there


def _next(fd: int, at: int, whence: int, size: int) -> int:
    """The next data or hole from `at` on; the end if there is none."""
    try:
        return os.lseek(fd, at, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        if error.errno == errno.EINVAL:  # the file system does not tell
            return at if whence == os.SEEK_DATA else size
        raise
