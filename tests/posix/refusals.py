"""Helpers of the behaviours for calls that fail with an errno."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """Expect the block to fail with one of these errno numbers."""
    wanted = "/".join(errno.errorcode[number] for number in numbers)
    got = "not refused"
    try:
        yield
    except OSError as error:
        if error.errno in numbers:
            return
        got = errno.errorcode.get(error.errno or 0, str(error))
    raise AssertionError(f"{got}, not {wanted}")


def unless_refused(number: int, call: Callable[[], T]) -> T | None:
    """The result of `call`, or None if it fails with this errno."""
    try:
        return call()
    except OSError as error:
        if error.errno != number:
            raise
        return None
