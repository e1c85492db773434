"""Waiting for a name to appear in a directory: inotify(7), which Python lacks."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator

_IN_CREATE = 0x100
_IN_MOVED_TO = 0x80
_EVENT = struct.Struct("iIII")
_LARGEST_EVENT = _EVENT.size + 256

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def watched(directory: str) -> Iterator[int]:
    """A descriptor for `next_name`, which reports names created in or moved into the directory from now on."""
    fd = _libc.inotify_init1(os.O_CLOEXEC)
    try:
        if _libc.inotify_add_watch(fd, os.fsencode(directory), _IN_CREATE | _IN_MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), directory)
        yield fd
    finally:
        os.close(fd)


def next_name(fd: int) -> str:
    """Wait for the next name. Names in the same read are lost."""
    return next(_names(os.read(fd, _LARGEST_EVENT)))


def names_until_now(fd: int) -> Iterator[str]:
    """The names reported so far. The descriptor does not block afterwards."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            yield from _names(os.read(fd, 1 << 16))


def _names(events: bytes) -> Iterator[str]:
    while events:
        end = _EVENT.size + _EVENT.unpack_from(events)[3]
        yield os.fsdecode(events[_EVENT.size : end].rstrip(b"\0"))
        events = events[end:]
