"""Asynchronous writes past the page cache, as databases and virtual machines make them (io_submit(2))."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

_SETUP, _DESTROY, _GETEVENTS, _SUBMIT = {
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
}[os.uname().machine]
_PWRITE = 1  # linux/aio_abi.h: IOCB_CMD_PWRITE

_libc = ctypes.CDLL(None, use_errno=True)


class _Request(ctypes.Structure):
    """`struct iocb` of linux/aio_abi.h, on a little-endian machine."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_fd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event` of linux/aio_abi.h."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class Queue:
    """Up to `depth` writes of `size` bytes, all submitted at once."""

    def __init__(self, depth: int, size: int) -> None:
        self._size = size
        self._context = ctypes.c_ulong(0)
        _call(_SETUP, depth, ctypes.byref(self._context))
        self._memory = mmap.mmap(-1, size)  # O_DIRECT wants it aligned
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._requests = (_Request * depth)()
        self._pointers = (ctypes.c_void_p * depth)(*map(ctypes.addressof, self._requests))
        self._events = (_Event * depth)()

    def fill(self, fd: int, byte: int) -> None:
        """Write `byte` all over the first `depth` parts of a file opened with O_DIRECT, and wait for the writes."""
        self._memory[:] = bytes([byte]) * self._size
        for number, request in enumerate(self._requests):
            request.opcode = _PWRITE
            request.fd = fd
            request.buffer = self._address
            request.size = self._size
            request.offset = number * self._size
        depth = len(self._requests)
        submitted = 0
        while submitted < depth:
            rest = ctypes.byref(self._pointers, submitted * ctypes.sizeof(ctypes.c_void_p))
            submitted += _call(_SUBMIT, self._context, ctypes.c_long(depth - submitted), rest)
        wanted = ctypes.c_long(depth)
        _call(_GETEVENTS, self._context, wanted, wanted, ctypes.byref(self._events), None)
        assert [event.result for event in self._events] == [self._size] * depth

    def close(self) -> None:
        _call(_DESTROY, self._context)


@contextmanager
def queue(depth: int, size: int) -> Iterator[Queue]:
    made = Queue(depth, size)
    try:
        yield made
    finally:
        made.close()


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
