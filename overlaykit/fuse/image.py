"""The memory image that the daemons of one fork server share.

A forked interpreter writes into most pages that it uses: counts of references move with each use of an object. Those of
an idle daemon differ from the server's on 1,800 pages, but from those of another idle daemon on 400. The first daemon
publishes its pages when it is idle, in a sealed memfd: a header (`_HEADER_BYTES`), and the pages of its ranges, one
after another. Each daemon then maps them in place of nearly equal ones of its own (native/image.c). What it writes
later is its own (MAP_PRIVATE), until it is idle again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from overlaykit import _native

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE: Final = os.sysconf("SC_PAGESIZE")
_HEADER_BYTES: Final = 1 << 13
"""The number of ranges, and of each its start and its end, in 8 bytes each."""
_MOST_RANGES: Final = _HEADER_BYTES // 16 - 1
_LEAST_REGION_BYTES: Final = 1 << 18
"""Smaller than the heap and an arena of Python's."""
_MOST_REGION_BYTES: Final = 1 << 30
"""The shadow memory of a sanitizer is larger."""
_MOST_IMAGE_BYTES: Final = 1 << 25
_BRIDGED_PAGES: Final = 4
"""Each mapping costs the kernel half a kilobyte."""
_PIECE_BYTES: Final = 1 << 16
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

_PRESENT: Final = 1 << 63
_OF_FILE: Final = 1 << 61
_EXCLUSIVE: Final = 1 << 56
"""Documentation/admin-guide/mm/pagemap.rst"""


def create() -> int:
    """An empty image: a descriptor. Raises: OSError."""
    return os.memfd_create("overlaykit-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def is_complete(image: int) -> bool:
    return bool(fcntl.fcntl(image, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE)


def is_empty(image: int) -> bool:
    return os.fstat(image).st_size == 0


def replace(image: int) -> None:
    """Make the descriptor that of an empty image. Daemons that have the old one keep it."""
    empty = create()
    os.dup2(empty, image, inheritable=False)
    os.close(empty)


@dataclass(frozen=True, slots=True)
class Image:
    """A daemon's part in an image. `publishes`: it is the daemon that fills it."""

    descriptor: int
    publishes: bool

    def share(self) -> bool:
        """Share the pages that are equal. Returns: false if that may be possible later."""
        # Without memory or /proc, the daemon only stays larger.
        with contextlib.suppress(OSError):
            try:
                share_pages(self.descriptor, publishes=self.publishes)
            except BlockingIOError:
                return False
        return True


def share_pages(image: int, *, publishes: bool) -> int:
    """Map the image in place of memory with the same content, which stays as it is.

    `publishes`: first write the pages that only this process has into the image, and seal it, unless it is sealed.
    Memory that the C library has free goes back to the kernel.

    Requires: no process but this one publishes into the image.
    Returns: the number of pages that are the image's now.
    Raises: OSError: EAGAIN if the image is not sealed, or another thread exists; EFBIG beyond 32 MiB; EEXIST if
    publishing has failed before; others of the kernel. The process is as before.
    """
    complete = fcntl.fcntl(image, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    # Two links, and one for each thread: fs/proc/base.c, proc_task_getattr.
    if not (complete or publishes) or os.stat("/proc/self/task").st_nlink != 3:
        raise _error(errno.EAGAIN)
    regions = _regions(_native.trim_memory())
    return _adopt(image, regions) if complete else _publish(image, regions)


def _regions(excluded: tuple[int, int]) -> list[tuple[int, int]]:
    """The memory that may be replaced, private and writable, without the regions that have an address of `excluded`."""
    regions: list[tuple[int, int]] = []
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            addresses, permissions = line.split(maxsplit=2)[:2]
            start, end = (int(address, 16) for address in addresses.split(b"-"))
            if (
                permissions != b"rw-p"
                or end - start > _MOST_REGION_BYTES
                or any(start <= address < end for address in excluded)
            ):
                continue
            if regions and regions[-1][1] == start:
                regions[-1] = (regions[-1][0], end)
            else:
                regions.append((start, end))
    return regions


def _ranges(regions: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges of pages that this process alone has, in regions that are not small."""
    ranges: list[tuple[int, int]] = []
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for start, end in regions:
            if end - start < _LEAST_REGION_BYTES:
                continue
            last = start - (_BRIDGED_PAGES + 1) * _PAGE
            for at in _own_pages(pagemap.fileno(), start, end):
                if at - last <= _BRIDGED_PAGES * _PAGE:
                    ranges[-1] = (ranges[-1][0], at + _PAGE)
                elif len(ranges) < _MOST_RANGES:
                    ranges.append((at, at + _PAGE))
                else:
                    break
                last = at + _PAGE
    return ranges


def _own_pages(pagemap: int, start: int, end: int) -> Iterator[int]:
    """The addresses of pages of a region that this process alone has."""
    wanted = _PRESENT | _EXCLUSIVE
    while start < end:
        size = min((end - start) // _PAGE * 8, _PIECE_BYTES)
        entries = memoryview(os.pread(pagemap, size, start // _PAGE * 8)).cast("Q")
        if not entries:
            raise _error(errno.EIO)
        for entry in entries:
            if entry & (wanted | _OF_FILE) == wanted:
                yield start
            start += _PAGE


def _publish(image: int, regions: list[tuple[int, int]]) -> int:
    """Range by range, so that no more than one of them is in memory twice.

    After a failure the image backs some memory here, so nothing is published again.
    """
    if os.fstat(image).st_size:
        raise _error(errno.EEXIST)
    ranges = _ranges(regions)
    pages = 0
    offset = _HEADER_BYTES
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        for start, end in ranges:
            if offset + end - start > _MOST_IMAGE_BYTES:
                raise _error(errno.EFBIG)
            for at in range(start, end, _PIECE_BYTES):
                piece = os.pread(memory.fileno(), min(end - at, _PIECE_BYTES), at)
                _write(image, piece, offset + at - start)
            pages += _native.replace_memory(image, offset, start, end - start)
            offset += end - start
    numbers = (len(ranges), *(address for both in ranges for address in both))
    _write(image, struct.pack(f"={len(numbers)}Q", *numbers), 0)
    fcntl.fcntl(image, fcntl.F_ADD_SEALS, _SEALS)
    return pages


def _write(image: int, piece: bytes, offset: int) -> None:
    while piece:
        written = os.pwrite(image, piece, offset)
        piece = piece[written:]
        offset += written


def _adopt(image: int, regions: list[tuple[int, int]]) -> int:
    numbers = memoryview(os.pread(image, _HEADER_BYTES, 0)).cast("Q")
    ends = iter(numbers[1 : 1 + 2 * numbers[0]])
    pages = 0
    offset = _HEADER_BYTES
    for start, end in zip(ends, ends, strict=True):
        if any(first <= start and end <= last for first, last in regions):
            pages += _native.replace_memory(image, offset, start, end - start)
        offset += end - start
    return pages


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
