"""A real terminal (pty(7)) as the caller of overlaykit has it, and the test's hand on its keyboard."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
from typing import IO, Any, Self

from overlaykit import procfs

from ..views.user import command_line, state

Mode = list[Any]

CANONICAL = termios.ICANON | termios.ECHO | termios.ISIG


class Terminal:
    """A program in a session whose controlling terminal is new; a context manager that ends it.

    Attributes: `process`; `output`, all that the terminal has shown.
    """

    def __init__(
        self,
        *argv: str,
        rows: int = 24,
        columns: int = 80,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.output = ""
        self._seen = 0
        self.master, self.slave = os.openpty()
        self.resize(rows, columns)
        self.before = self.mode()
        slave = self.slave

        def own_terminal() -> None:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            argv,
            stdin=slave if stdin is None else stdin,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            env=None if env is None else os.environ | env,
            preexec_fn=own_terminal,  # the test has one thread
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.hang_up()
        os.close(self.slave)

    def hang_up(self) -> None:
        if self.master >= 0:
            os.close(self.master)
        self.master = -1

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def mode(self) -> Mode:
        return termios.tcgetattr(self.slave)

    def is_raw(self) -> bool:
        return not self.mode()[3] & CANONICAL

    def type(self, text: str) -> None:
        rest = text.encode()
        while rest:
            rest = rest[os.write(self.master, rest) :]

    def read_until(self, text: str, *, times: int = 1) -> str:
        """Read until the terminal has shown a text `times` times after what the last call returned; what it showed."""
        begin = self._seen
        for _ in range(times):
            while (found := self.output.find(text, self._seen)) < 0:
                self._read()
            self._seen = found + len(text)
        return self.output[begin : self._seen]

    def finish(self) -> int:
        """Read until the program ends; its exit status, negative if a signal ended it."""
        ended = os.pidfd_open(self.process.pid)
        try:
            while ended not in select.select([ended, self.master], [], [])[0]:
                self._read()
        finally:
            os.close(ended)
        while select.select([self.master], [], [], 0)[0]:
            self._read()
        return self.process.wait()

    def supervisor(self) -> int:
        """The process of the view that the program is, or that it runs."""
        family = [self.process.pid, *procfs.descendants(self.process.pid)]
        (found,) = [
            one for one in family if _is_supervisor(one) and not _is_supervisor(_parent(one))
        ]
        return found

    def _read(self) -> str:
        chunk = os.read(self.master, 65536).decode(errors="replace")
        self.output += chunk
        return chunk


def _is_supervisor(process: int) -> bool:
    try:
        return os.readlink(f"/proc/{process}/exe").endswith("/_supervisor")
    except OSError:
        return False


def _parent(process: int) -> int:
    with open(f"/proc/{process}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def wait_for_state(begins: str, wanted: str) -> None:
    """Wait until a descendant whose arguments begin so is in a state of proc_pid_stat(5)."""
    while not any(
        command_line(process).startswith(begins) and state(process)[0] == wanted
        for process in procfs.descendants(os.getpid())
    ):
        os.sched_yield()
