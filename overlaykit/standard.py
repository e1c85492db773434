"""The standard descriptors 0 to 2, of which the caller of a program may have closed some.

A program calls `fill` before it opens anything: else its first socket or lock becomes descriptor 2, and the first line
that is written to standard error goes into it.
"""

from __future__ import annotations

import os
import sys
from typing import Final

_DESCRIPTORS: Final = range(3)

_closed: set[int] = set()


def fill() -> None:
    """Open /dev/null on each standard descriptor that is closed, for this process and its children."""
    for descriptor in _DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            _closed.add(descriptor)
            _open_null(descriptor)
    # Python has None in place of a stream that was closed, and print(file=None) goes to standard output.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  # open as long as the process
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def closed() -> frozenset[int]:
    """The standard descriptors that `fill` found closed: a command run for the caller gets them closed."""
    return frozenset(_closed)


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
