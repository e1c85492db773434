"""A line of progress on the terminal of standard error, for work that takes longer than a second."""

from __future__ import annotations

import os
import sys
import time

from overlaykit import progress
from overlaykit.scope import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_SECONDS_BEFORE: Final = 1.0
_SECONDS_BETWEEN: Final = 0.1
_BAR: Final = 30


@contextmanager
def shown() -> Iterator[None]:
    """Show the work of the block, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    line = Line()
    with progress.shown(line):
        try:
            yield
        finally:
            line.end()


class Line:
    """The line, which is erased when the work is done: other output is in its place then."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _SECONDS_BEFORE
        self._is_there = False

    def show(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _SECONDS_BETWEEN
        text = described(what, done, total)
        with suppress(OSError, ValueError):
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
            text = text[: columns - 1] if columns else text
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
        self._is_there = True

    def end(self) -> None:
        if self._is_there:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        self._is_there = False


def described(what: str, done: int, total: int) -> str:
    """A bar where the total is known, else a number."""
    if not total:
        return f"{what}: {done:,}"
    filled = _BAR * done // total
    return f"{what}: [{'#' * filled}{' ' * (_BAR - filled)}] {done:,} of {total:,}"
