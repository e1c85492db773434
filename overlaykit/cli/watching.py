"""Changes printed while a command runs (`overlaykit try --watch`)."""

from __future__ import annotations

import sys
import termios
import time
from typing import TYPE_CHECKING, Final

from overlaykit.cli.diff import COLOURS, LETTERS
from overlaykit.cli.output import coloured, one_line
from overlaykit.scope import suppress

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 5.0
_SHARE: Final = 10
"""A look takes at most one part in so many of the time."""


class Watch:
    """Looks at the changes again and again. `changes`: the kind of each path. `pause`: seconds until the next look.

    Lines wait while a program has the terminal in raw mode: they would garble its screen.
    """

    def __init__(self, changes: Callable[[], dict[str, str]]) -> None:
        self._changes = changes
        self._shown: dict[str, str] = {}
        self._waiting: list[str] = []
        self.pause = _PAUSE

    def look(self) -> None:
        """Print what has changed since the last look."""
        began = time.monotonic()
        with suppress(OSError):  # the view is removed, or a file while it is read
            found = self._changes()
            for path, kind in found.items():
                if self._shown.get(path) != kind:
                    line = one_line(f"{LETTERS[kind]}  {path}")
                    self._waiting.append(coloured(line, COLOURS[kind], sys.stderr))
            self._waiting += [one_line(f"=  {path}") for path in self._shown.keys() - found.keys()]
            self._shown = found
        if not _is_raw():
            self.end()
        took = time.monotonic() - began
        self.pause = min(max(_PAUSE, took * _SHARE), _LONGEST_PAUSE)

    def end(self) -> None:
        """Print what waits."""
        for line in self._waiting:
            print(line, file=sys.stderr)
        self._waiting.clear()


def _is_raw() -> bool:
    """Whether a program has the terminal of standard error in raw mode."""
    try:
        local = termios.tcgetattr(2)[3]
    except (OSError, termios.error):
        return False
    return not local & termios.ICANON
