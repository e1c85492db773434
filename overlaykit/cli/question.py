"""The question of `overlaykit try`, on the terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from overlaykit import signals
from overlaykit.cli import summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, NoReturn, Self

    from overlaykit.cli.summary import Summary

_QUESTION: Final = (
    "[a]pply, [s]ome, [d]iscard, [k]eep [NAME], [l]ist, [p]atch [PATH], [sh]ell, [r]un COMMAND? "
)
_HELP: Final = """\
  a         apply: write the changes into the host's files
  s         some: choose the changes to apply
  d         discard the changes
  k [NAME]  keep them, for 'overlaykit diff', 'apply' and 'start'; also the end of input, Ctrl-C, Ctrl-\\ and a hang-up
  l         list all changes
  p [PATH]  show a patch
  sh        open a shell among the changes
  r COMMAND run another command among the changes"""
_CHOICE: Final = "Which (1-3,7; a path; * for all; nothing for none)? "
_CONFLICTS: Final = (
    "Write what the command has there ([t]heirs), keep what the host has ([o]urs), or [c]ancel? "
)
_MERGE: Final = (
    "[m]erge texts, write what the command has there ([t]heirs), keep what the host has ([o]urs),"
    " or [c]ancel? "
)


class Kept(Exception):
    """The user has gone, or wants to decide later."""


class Question:
    """A terminal, by a descriptor to read from. What is shown goes to standard error, or to the terminal."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._group = os.getpgrp()

    @classmethod
    def of_terminal(cls, stack: contextlib.ExitStack) -> Self | None:
        """The controlling terminal if this is in its foreground; None: there is no one to ask."""
        try:
            fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            return None
        if os.tcgetpgrp(fd) != os.getpgrp() or not (os.isatty(0) or os.isatty(2)):
            os.close(fd)
            return None
        stack.callback(os.close, fd)
        return cls(fd)

    def take_terminal(self) -> None:
        """Bring this process to the foreground again, after a shell that died."""
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        try:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self._terminal, self._group)
        finally:
            signal.signal(signal.SIGTTOU, before)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block in which SIGHUP, SIGQUIT and SIGTERM raise Kept."""

        def keep(_number: int, _: object) -> NoReturn:
            raise Kept

        with signals.handled((signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM), keep):
            yield

    def ask(self) -> str:
        """What to do. Raises: Kept."""
        return self._line(_QUESTION)

    def ask_conflicts(self, *, can_merge: bool) -> str:
        return self._line(_MERGE if can_merge else _CONFLICTS)

    def help(self) -> None:
        print(_HELP, file=sys.stderr)

    def choose(self, found: Summary) -> list[str]:
        """The paths that are chosen from a numbered list. Raises: Kept."""
        summary.show(found, numbered=True)
        while True:
            answer = self._line(_CHOICE)
            try:
                return chosen(answer, found)
            except ValueError as error:
                print(f"{error}: not in the list", file=sys.stderr)

    def _line(self, prompt: str) -> str:
        """A line of input. Raises: Kept."""
        print(prompt, end="", file=sys.stderr, flush=True)
        read = b""
        try:
            while not read.endswith(b"\n"):
                more = os.read(self._terminal, 4096)
                if not more:
                    raise Kept
                read += more
        except OSError:
            raise Kept from None
        return os.fsdecode(read).strip()


def chosen(answer: str, found: Summary) -> list[str]:
    """The paths of an answer as `1-3,7 /etc`. Raises: ValueError: a part of it is not in the list."""
    if answer == "*":
        return [line.path for line in found.lines]
    if answer.startswith("/"):
        return [answer]
    wanted: set[int] = set()
    for part in answer.replace(",", " ").split():
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(part)
        numbers = range(int(first), int(last if dash else first) + 1)
        if not numbers or not 1 <= numbers[0] <= numbers[-1] <= len(found.lines):
            raise ValueError(part)
        wanted.update(numbers)
    return [line.path for line in found.lines if line.number in wanted]
