"""The standard descriptors 0 to 2, some of which the parent of a program may have closed.

A program calls `fill` before it opens a file. Otherwise its first socket or lock becomes descriptor 2, and writes to
standard error go into it.
"""

from __future__ import annotations

import os
import sys

from overlaykit.scope import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_DESCRIPTORS: Final = range(3)

_closed: set[int] = set()


def fill() -> None:
    """Open /dev/null on each standard descriptor that is closed, for this process and its children."""
    _fill()
    # A closed stream is None in Python, and print(file=None) writes to standard output. They stay open for good.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


@contextmanager
def filled() -> Iterator[None]:
    """`fill` until the end of the block, for a library in another program."""
    filled = _fill()
    try:
        yield
    finally:
        for descriptor in filled:
            os.close(descriptor)
        _closed.difference_update(filled)


def closed() -> frozenset[int]:
    """The standard descriptors that the parent has closed; they are closed for a command, too."""
    return frozenset(_closed.union(filter(_is_closed, _DESCRIPTORS)))


def empty(descriptor: int) -> None:
    """Replace a standard descriptor that is no longer needed by /dev/null."""
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
    # In a root directory without devices: reads and writes fail with EBADF, as on a closed descriptor.
    except OSError:
        null = os.open("/", os.O_PATH)
    if null == descriptor:
        os.set_inheritable(null, True)
    else:
        os.dup2(null, descriptor)
        os.close(null)
