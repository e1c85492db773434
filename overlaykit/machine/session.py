"""The host's side of a guest's command: its streams, signals, terminal and end (native/guest_session.c)."""

from __future__ import annotations

import os
import select
import signal
import socket
from itertools import chain
from typing import TYPE_CHECKING, Final

from overlaykit.errors import Error
from overlaykit.record import Record
from overlaykit.scope import suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol as Interface
    from typing import TypeAlias

    Sink: TypeAlias = Callable[[bytes], None]

    class Served(Interface):
        """What has descriptors to wait for."""

        def descriptors(self) -> list[int]: ...

        def act(self, ready: Iterable[int]) -> None: ...


_READ_BYTES: Final = 1 << 16
_OF_THE_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT)
"""A terminal sends them to each process of the command."""


class Protocol(Error):
    message = "the guest sent a line that is none: {0}"


class End(Record, kw_only=True):
    """How a guest's command ended."""

    status: int
    """Its exit status, or 128 + N if the signal N ended it."""
    disk_full: bool = False


class Failed(Record, kw_only=True):
    """A step of the guest's plan that failed."""

    errno: int
    step: str
    word: str


class Session:
    """The four sockets of a guest, by the host's ends.

    Attributes:
      ready: whether the guest has started the command.
      end: how it ended; None: not yet, or it did not say.
    """

    def __init__(
        self,
        stdout: socket.socket,
        stderr: socket.socket,
        control: socket.socket,
        stdin: socket.socket,
        sinks: tuple[Sink, Sink] | None = None,
        plan: bytes | None = None,
        on_hello: Callable[[], object] = lambda: None,
    ):
        """`sinks` take both outputs in place of the standard descriptors.

        `plan`: that of a command that runs beside the guest's first one, and ends without it; `on_hello` is called once
        the guest has its ports.
        """
        self._plan: Final = plan
        self._on_hello: Final = on_hello
        self._before_plan: list[str] | None = None if plan is None else []
        """What is said once the guest has the plan."""
        self.ready = False
        self.end: End | Failed | None = None
        self._control: Final = control
        out, err = sinks or (None, None)
        self._outputs: Final = [_Output(stdout, 1, out), _Output(stderr, 2, err)]
        self._input: Final = _Input(stdin)
        self._lines = b""
        self._full = False
        self._counts = (0, 0)
        self._quit = False
        for one in (stdout, stderr, control, stdin):
            one.setblocking(False)

    def signal(self, number: int) -> None:
        """Send a signal to the command."""
        kind = "group" if number in _OF_THE_TERMINAL else "signal"
        self._say(f"{kind} {number}")

    def resize(self, rows: int, columns: int) -> None:
        """Tell the size of the terminal."""
        self._say(f"size {rows} {columns}")

    def without_input(self) -> None:
        """Leave standard input alone: the command finds its end."""
        self._input.ended = True

    def run(
        self,
        wakeup: int,
        on_signal: Callable[[], bool],
        watched: Iterable[int],
        on_ready: Callable[[], None],
        served: Served | None = None,
    ) -> None:
        """Relay until the guest has ended, or a descriptor of `watched` is readable.

        `on_signal` is called when `wakeup` is readable; it says whether to go on. `on_ready` is called once the command
        runs. `served`: what else is waited for meanwhile.
        """
        others, told = list(watched), False
        while not self._gone() and not self._is_over():
            poller = select.poll()
            for descriptor in served.descriptors() if served is not None and told else ():
                poller.register(descriptor, select.POLLIN)
            for descriptor in (wakeup, *others):
                poller.register(descriptor, select.POLLIN)
            poller.register(self._control, select.POLLIN)
            waited_for = [one.waits_for() for one in self._outputs]
            for descriptor, events in chain(*waited_for, self._input.waits_for(ready=self.ready)):
                poller.register(descriptor, events)
            ready = dict(poller.poll())
            if wakeup in ready and not on_signal():
                return
            if self._control.fileno() in ready and not self._read_control():
                self._drain()
                return
            if served is not None and told:
                served.act(ready)
            if self.ready and not told:
                told = True
                on_ready()
            for output in self._outputs:
                output.pass_on(ready)
            if self._input.pass_on(ready):
                self._say(f"end {self._input.count}")
            self._quit_if_complete()
            if any(descriptor in ready for descriptor in others):
                return
        if self._is_over():
            self._drain()

    def tell(self, line: str) -> None:
        """Say a line to the guest."""
        self._say(line)

    def _is_over(self) -> bool:
        """Whether another command than the first has ended: the guest has not."""
        return self._plan is not None and (self._quit or isinstance(self.end, Failed))

    def _gone(self) -> bool:
        return self._control.fileno() < 0

    def _say(self, line: str) -> None:
        if self._before_plan is not None:
            self._before_plan.append(line)
            return
        # It has ended, or takes no more lines.
        with suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
            self._control.send(line.encode() + b"\n")

    def _read_control(self) -> bool:
        """Returns whether the guest still has its end."""
        try:
            read = self._control.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        *lines, self._lines = (self._lines + read).split(b"\n")
        for line in lines:
            self._take(line.decode(errors="surrogateescape"))
        return bool(read)

    def _take(self, line: str) -> None:
        match line.split(" "):
            case ["hello"] if self._plan is not None and self._before_plan is not None:
                self._on_hello()
                self._control.setblocking(True)
                self._control.sendall(b"%d\n" % len(self._plan) + self._plan)
                self._control.setblocking(False)
                waiting, self._before_plan = self._before_plan, None
                for waiting_line in waiting:
                    self._say(waiting_line)
            case ["ready"]:
                self.ready = True
            case ["full"]:
                self._full = True
            case ["exited", status, out, err]:
                self._ended(int(status), out, err)
            case ["killed", number, out, err]:
                self._ended(128 + int(number), out, err)
            case ["failed", number, step, *word]:
                self.end = Failed(errno=int(number), step=step, word=" ".join(word))
            case _:
                raise Protocol(repr(line[:80]))

    def _ended(self, status: int, out: str, err: str) -> None:
        self.end = End(status=status, disk_full=self._full)
        self._counts = int(out), int(err)

    def _quit_if_complete(self) -> None:
        if self._quit or not isinstance(self.end, End):
            return
        counts = tuple(output.count for output in self._outputs)
        if counts == self._counts or all(output.lost for output in self._outputs):
            self._quit = True
            self._say("quit")

    def _drain(self) -> None:
        """Write what the sockets hold: their other end is gone."""
        for output in self._outputs:
            output.drain()


class _Output:
    """A stream from the guest to a standard descriptor."""

    def __init__(self, source: socket.socket, target: int, sink: Sink | None) -> None:
        self._source: Final = source
        self._target: Final = target
        self._sink: Final = sink
        self._held = memoryview(b"")
        self._ended = False
        self.lost = False
        """Whether nobody reads the target: what comes is dropped."""
        self.count = 0
        """Bytes that have come."""

    def waits_for(self) -> list[tuple[int, int]]:
        if self._held:
            return [(self._target, select.POLLOUT)]
        return [] if self._ended else [(self._source.fileno(), select.POLLIN)]

    def pass_on(self, ready: dict[int, int]) -> None:
        if self._held and self._target in ready:
            self._write()
        elif not self._held and not self._ended and self._source.fileno() in ready:
            self._read()

    def drain(self) -> None:
        while self._held or not self._ended:
            if self._held:
                poller = select.poll()
                poller.register(self._target, select.POLLOUT)
                poller.poll()
                self._write()
            elif not self._read():
                return

    def _read(self) -> bool:
        try:
            read = self._source.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            read = b""
        self._ended = not read
        self.count += len(read)
        if self._sink is not None:
            self._sink(read)
        elif not self.lost:
            self._held = memoryview(read)
        return bool(read)

    def _write(self) -> None:
        try:
            # No more than a pipe takes at once, once it says that it takes some: the descriptor may block.
            written = os.write(self._target, self._held[: select.PIPE_BUF])
        except BlockingIOError:
            return
        except OSError:
            self.lost, written = True, len(self._held)
        self._held = self._held[written:]


class _Input:
    """Standard input to the guest."""

    def __init__(self, target: socket.socket) -> None:
        self._target: Final = target
        self._held = memoryview(b"")
        self.ended = False
        self._told = False
        self.count = 0

    def waits_for(self, *, ready: bool) -> list[tuple[int, int]]:
        # Not before the command runs: what it does not read is the caller's.
        if not ready or self._told:
            return []
        if self._held:
            return [(self._target.fileno(), select.POLLOUT)]
        return [] if self.ended else [(0, select.POLLIN)]

    def pass_on(self, ready: dict[int, int]) -> bool:
        """Returns whether the end is reached now."""
        if not self._held and not self.ended and 0 in ready:
            try:
                self._held = memoryview(os.read(0, _READ_BYTES))
            except BlockingIOError:
                return False
            except OSError:
                self._held = memoryview(b"")
            self.ended = not self._held
            self.count += len(self._held)
        if self._held:
            try:
                self._held = self._held[self._target.send(self._held) :]
            except BlockingIOError:
                return False
            except OSError:
                self._held, self.ended = memoryview(b""), True
        if self.ended and not self._held and not self._told:
            self._told = True
            return True
        return False
