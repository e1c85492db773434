"""Signals that end the program, but only where no operation is incomplete."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Final, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    _Handler = Callable[[int, FrameType | None], object] | int | None

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """A context manager in which these signals raise SystemExit(128 + N), so that everything is cleaned up.

    The first signal N raises inside `allowed`, or else when `allowed` is reached; a second one raises at once. Later
    ones are ignored. Handlers do this, not a signal mask, because a child would inherit the mask.
    Requires: the main thread.
    """

    def __init__(self) -> None:
        self._received = 0
        self._allowed = False
        self._ending = False
        self._before: list[tuple[int, _Handler]] = []

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup(1)
                self._before.append((number, signal.signal(number, self._receive)))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)
        if self._received and not self._ending:
            self._end()

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """A block in which a signal may end the program, because no operation is incomplete."""
        self._allowed = True
        try:
            if self._received:
                self._end()
            yield
        finally:
            self._allowed = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        is_second = self._received != 0
        self._received = self._received or number
        if (self._allowed or is_second) and not self._ending:
            self._end()

    def _end(self) -> NoReturn:
        self._ending = True
        raise SystemExit(128 + self._received)
