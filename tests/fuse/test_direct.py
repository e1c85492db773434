"""Writes past the page cache (O_DIRECT): programs that read through the cache find them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ..overlay.stack import Stack
from ..posix.table import File
from .aio import queue
from .mounted import mounted

DEPTH = 32
PART = 4096
ROUNDS = 100
READERS = 2


def test_what_was_written_asynchronously_is_what_others_read(stack: Stack) -> None:
    stack.add({"f": File(b"\0" * DEPTH * PART)})
    with mounted(stack) as mount:
        path = mount.path("f")
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        try:
            with reading(path), queue(DEPTH, PART) as writes, open(path, "rb", 0) as file:
                for number in range(1, ROUNDS + 1):
                    byte = number % 256
                    writes.fill(fd, byte)
                    found = os.pread(file.fileno(), DEPTH * PART, 0)
                    assert found == bytes([byte]) * DEPTH * PART, f"round {number}"
        finally:
            os.close(fd)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Processes that read a file through the page cache in a loop during the body."""
    readers = [_start_reading(path) for _ in range(READERS)]
    try:
        yield
    finally:
        for pid in readers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _start_reading(path: str) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            fd = os.open(path, os.O_RDONLY)
            while True:
                os.pread(fd, DEPTH * PART, 0)
        finally:
            os._exit(1)
    return pid
