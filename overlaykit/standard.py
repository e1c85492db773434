"""The standard descriptors 0 to 2, of which the caller of a program may have closed some.

A program calls `fill` before it opens anything: else its first socket or lock becomes descriptor 2, and the first line
that is written to standard error goes into it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_DESCRIPTORS: Final = range(3)

_closed: set[int] = set()


def fill() -> None:
    """Open /dev/null on each standard descriptor that is closed, for this process and its children."""
    _fill()
    # Python has None in place of a stream that was closed, and print(file=None) goes to standard output.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  # open as long as the process
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


@contextmanager
def filled() -> Iterator[None]:
    """The same until the end of the block, for a library in a program that is not its own."""
    filled = _fill()
    try:
        yield
    finally:
        for descriptor in filled:
            os.close(descriptor)
        _closed.difference_update(filled)


def closed() -> frozenset[int]:
    """The standard descriptors that the caller has closed: a command run for it gets them closed."""
    return frozenset(_closed.union(filter(_is_closed, _DESCRIPTORS)))


def empty(descriptor: int) -> None:
    """Put /dev/null in place of a standard descriptor that is needed no more."""
    os.close(descriptor)
    _open_null(descriptor)


def _fill() -> set[int]:
    found = set(filter(_is_closed, _DESCRIPTORS))
    for descriptor in sorted(found):
        _open_null(descriptor)
    _closed.update(found)
    return found


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def _open_null(descriptor: int) -> None:
    try:
        null = os.open(os.devnull, os.O_RDWR)
    except (
        OSError
    ):  # a root directory without devices: reading and writing fail with EBADF, as before
        null = os.open("/", os.O_PATH)
    if null == descriptor:
        os.set_inheritable(null, True)
    else:
        os.dup2(null, descriptor)
        os.close(null)
