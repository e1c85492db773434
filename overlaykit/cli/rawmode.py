"""The caller's terminal in raw mode: each key is for the view."""

from __future__ import annotations

import os
import select
import termios
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from overlaykit.signals import signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STDIN: Final = 0


def size() -> tuple[int, int] | None:
    """The rows and columns of the first standard stream that is a terminal."""
    for descriptor in range(3):
        try:
            found = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return found.lines, found.columns
    return None


@contextmanager
def raw(on_resume: Callable[[], None]) -> Iterator[None]:
    """Have the terminal of standard input in raw mode during the block, and restore it also if this process is killed.

    A process that SIGTSTP stops gives the terminal back; `on_resume` is called once it has it again.

    Requires: the main thread, and no other.
    """
    before = termios.tcgetattr(_STDIN)

    def restore() -> None:
        termios.tcsetattr(_STDIN, termios.TCSANOW, before)

    def stop(*_: object) -> None:
        restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        tty.setraw(_STDIN, termios.TCSANOW)
        on_resume()

    tty.setraw(_STDIN, termios.TCSANOW)
    handler = signal.getsignal(signal.SIGTSTP)
    guardian = -1
    try:
        guardian = _start_guardian(before, termios.tcgetattr(_STDIN))
        signal.signal(signal.SIGTSTP, stop)
        yield
    finally:
        signal.signal(signal.SIGTSTP, handler)
        restore()
        if guardian > 0:
            os.kill(guardian, signal.SIGKILL)
            os.waitpid(guardian, 0)


def _start_guardian(before: list[Any], raw_mode: list[Any]) -> int:
    """A process that restores the mode at the end of this one, unless another process has set one."""
    ended = os.pidfd_open(os.getpid())
    guardian = os.fork()
    if guardian:
        os.close(ended)
        return guardian
    try:
        os.setsid()  # no key and no hang-up reaches it, and nothing stops it (tty_check_change() in drivers/tty)
        os.closerange(1, ended)
        os.closerange(ended + 1, os.sysconf("SC_OPEN_MAX"))
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.poll()
        if termios.tcgetattr(_STDIN) == raw_mode:
            termios.tcsetattr(_STDIN, termios.TCSANOW, before)
    finally:
        os._exit(0)
