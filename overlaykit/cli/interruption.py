"""Signals that ask a program to stop, heeded only where nothing is half made."""

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
    """A context manager in which these signals end the program by SystemExit(128 + N), so that all is cleared away.

    The first signal N does so inside `allowed`, or else as soon as that is reached; a second one, at once: somebody
    insists. While the program is ending they change nothing. By handlers rather than a signal mask, which a
    child would inherit. For the main thread only.
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
        """Where the program waits and nothing is half made."""
        self._allowed = True
        try:
            if self._received:
                self._end()
            yield
        finally:
            self._allowed = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        insisted = self._received != 0
        self._received = self._received or number
        if (self._allowed or insisted) and not self._ending:
            self._end()

    def _end(self) -> NoReturn:
        self._ending = True
        raise SystemExit(128 + self._received)
