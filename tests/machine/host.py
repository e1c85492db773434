"""The host's side of a machine's command as a process, whose guest is the test."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
from collections.abc import Iterator

from overlaykit import signals
from overlaykit.machine.session import End, Failed, Session
from overlaykit.namespace import Terminal
from overlaykit.views import guest

Result = tuple[int, End | Failed | None]


class Host:
    """A relay.

    `stdout`, `stderr`, `control` and `stdin` are the guest's ends; `given`, `shown` and `errors` the caller's. `result`
    is the signal that ended it and the guest's end, once it has ended.
    """

    def __init__(
        self,
        terminal: Terminal | None = None,
        size: tuple[int, int] | None = None,
        watched: tuple[int, ...] = (),
        *,
        has_input: bool = True,
    ) -> None:
        pairs = [socket.socketpair() for _ in range(4)]
        self.stdout, self.stderr, self.control, self.stdin = (theirs for _, theirs in pairs)
        (zero, given), (shown, one), (errors, two), (result, pickled) = (
            os.pipe() for _ in range(4)
        )
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals.FORWARDED)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for target, source in enumerate((zero, one, two)):
                    os.dup2(source, target)
                for inherited in (given, shown, errors, result, zero, one, two):
                    os.close(inherited)
                for _, theirs in pairs:
                    theirs.close()
                if not has_input:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 0)
                out, err, control_end, given_end = (ours for ours, _ in pairs)
                session = Session(out, err, control_end, given_end)
                os.write(pickled, pickle.dumps(_relayed(session, watched, terminal, size)))
            finally:
                os._exit(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for descriptor in (zero, one, two, pickled):
            os.close(descriptor)
        for ours, _ in pairs:
            ours.close()
        self.given = open(given, "wb", buffering=0)  # noqa: SIM115
        self.shown = open(shown, "rb", buffering=0)  # noqa: SIM115
        self.errors = open(errors, "rb", buffering=0)  # noqa: SIM115
        self._lines = self.control.makefile("rb")
        self._result = open(result, "rb")  # noqa: SIM115

    def says(self, line: str) -> None:
        """Have the guest say a line."""
        self.control.sendall(line.encode() + b"\n")

    def line(self) -> str:
        """The next line that the host says; an empty one: it has gone."""
        return self._lines.readline().decode().rstrip("\n")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> None:
        """Have the guest end."""
        self._lines.close()
        for one in (self.control, self.stdout, self.stderr, self.stdin):
            one.close()

    def result(self) -> Result:
        with self._result:
            found = pickle.loads(self._result.read())
        if isinstance(found, BaseException):
            raise found
        one: Result = found
        return one

    def close(self) -> None:
        self.end()
        for file in (self.given, self.shown, self.errors, self._result):
            file.close()
        # Without a guest it ends.
        os.waitpid(self.pid, 0)


@contextlib.contextmanager
def host(
    terminal: Terminal | None = None,
    size: tuple[int, int] | None = None,
    watched: tuple[int, ...] = (),
    *,
    has_input: bool = True,
) -> Iterator[Host]:
    """A host that ends with the test."""
    one = Host(terminal, size, watched, has_input=has_input)
    try:
        yield one
    finally:
        one.close()


def _relayed(
    session: Session,
    watched: tuple[int, ...],
    terminal: Terminal | None,
    size: tuple[int, int] | None,
) -> Result | BaseException:
    try:
        early = guest.relay(session, watched, terminal, lambda: size, lambda resize: resize())
    except BaseException as error:
        return error
    return early, session.end
