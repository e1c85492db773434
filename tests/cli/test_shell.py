"""A view on a terminal: the keys of an interactive shell interrupt, stop and continue its command as any other."""

from __future__ import annotations

import os
import pty
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from ..views.fixtures import with_both_drivers
from ..views.user import TestUser, command

pytestmark = with_both_drivers

INTERRUPT, SUSPEND = b"\x03", b"\x1a"


class Shell:
    """An interactive bash on a terminal. `until`, `type`: what it prints, and what is typed."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._printed = b""

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def until(self, wanted: bytes) -> bytes:
        while wanted not in self._printed:
            self._printed += os.read(self._terminal, 4096)
        before, _, self._printed = self._printed.partition(wanted)
        return before


@contextmanager
def shell() -> Iterator[Shell]:
    child, terminal = pty.fork()
    if child == 0:
        os.environ["PS1"] = "ready> "
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    opened = Shell(terminal)
    opened.until(b"ready> ")
    yield opened
    opened.type(b"exit\n")
    os.waitpid(child, 0)
    os.close(terminal)


def line(user: TestUser, script: str) -> bytes:
    view = (command(), "run", "-l", user.small_system(), "-v", "/usr:/usr:ro", "--")
    return shlex.join([*view, "sh", "-c", script]).encode() + b"\n"


def test_a_view_is_stopped_and_continued_by_its_shell(user: TestUser) -> None:
    with shell() as typed:
        typed.type(line(user, 'echo run""ning; read x; echo "it is $x"; exit 7'))
        typed.until(b"running")
        typed.type(SUSPEND)
        typed.until(b"Stopped")
        typed.until(b"ready> ")
        # The shell waits for the supervisor alone: a command that has not stopped yet reads what is typed next.
        typed.type(b"fg\n")
        typed.type(b"typed\n")
        typed.until(b"it is typed")
        typed.until(b"ready> ")
        typed.type(b"echo status=$?\n")
        typed.until(b"status=7")


def test_the_shell_has_the_terminal_back_once_the_command_has_stopped(user: TestUser) -> None:
    script = (
        'trap \'echo stop""ping; read x; echo "before: $x"; kill -STOP $$\' TSTP;'
        ' echo run""ning; while ! read y; do :; done; echo "after: $y"; exit 7'
    )
    with shell() as typed:
        typed.type(line(user, script))
        typed.until(b"running")
        typed.type(SUSPEND)
        typed.until(b"stopping")
        typed.type(b"one\n")
        typed.until(b"before: one")
        typed.until(b"Stopped")
        typed.type(b"fg\n")
        typed.type(b"two\n")
        typed.until(b"after: two")


def test_an_interrupt_from_the_keyboard_reaches_the_command_once(user: TestUser) -> None:
    script = "trap 'n=x$n' INT; echo run\"\"ning; read x; read y; echo got=$n; exit 8"
    with shell() as typed:
        typed.type(line(user, script))
        typed.until(b"running")
        typed.type(INTERRUPT)
        typed.until(b"^C")
        typed.type(b"\n\n")
        typed.until(b"got=x\r\n")
        typed.until(b"ready> ")
        typed.type(b"echo status=$?\n")
        typed.until(b"status=8")
