"""The processes of a launched view, seen from their parent."""

from __future__ import annotations

import os

from overlaykit import signals
from overlaykit.namespace.descriptors import is_readable, poll_readable
from overlaykit.record import Record
from overlaykit.scope import suppress
from overlaykit.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Final

    from overlaykit.namespace.ports import Port


class Handles(Record, kw_only=True):
    """Process ids in the caller's PID namespace, and pidfds, of the monitor and of init."""

    monitor_pid: int
    monitor_fd: int
    init_pid: int
    init_fd: int


class Processes:
    """The processes of a launched view; a context manager that kills them at its end.

    Attributes:
      monitor_pid: the supervisor.
      init_pid: the view's PID 1, by its process id in the caller's PID namespace.
      init_fd: its pidfd; readable once every process of the view has ended.
      ports: the published ports, each with the port of the host that is bound.
    """

    def __init__(self, handles: Handles, *, ports: tuple[Port, ...]) -> None:
        self.monitor_pid: Final = handles.monitor_pid
        self.init_pid: Final = handles.init_pid
        self.init_fd: Final = handles.init_fd
        self.ports: Final = ports
        self._monitor: Final = handles.monitor_fd
        self._status: int | None = None
        self._closed = False

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def wait(self, *, abort_on: Iterable[int] = ()) -> int:
        """Wait for the view's end: the command's exit status, or 128 + N where signal N ended it.

        If a descriptor of `abort_on` becomes readable first, the view is killed, with the status 137. In the main
        thread, signals of `signals.FORWARDED` that other processes send to this one are forwarded to the command; the
        terminal's reach the command directly. Dispositions stay unchanged.
        """
        if self._status is None:
            watched = [self._monitor, *abort_on]
            import threading

            if threading.current_thread() is threading.main_thread():
                self._wait_forwarding(watched)
            else:
                poll_readable(watched)
            self._finish()
        assert self._status is not None
        return self._status

    def signal(self, number: int) -> None:
        """Send a signal of `signals.FORWARDED` to the command, through init; do nothing if the view has ended."""
        if self._closed:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.init_fd, number)

    def kill(self) -> None:
        """Kill every process of the view; `wait` then returns 137."""
        self.signal(signal.SIGKILL)

    def count(self) -> int:
        """The number of processes in the view, init included; 0 once it has ended.

        They are init's descendants: an orphan becomes a child of init, and no process leaves its PID namespace.
        """
        if self._closed or is_readable(self.init_fd):
            return 0
        from overlaykit import procfs

        return 1 + len(procfs.descendants(self.init_pid))

    def close(self) -> None:
        """Kill the processes, wait for their end, and close the descriptors. May be called again."""
        if self._closed:
            return
        if self._status is None:
            self.kill()
            self._finish()
        self._closed = True
        os.close(self.init_fd)
        os.close(self._monitor)

    def _wait_forwarding(self, watched: list[int]) -> None:
        signalled = -1
        try:
            with signals.held():
                # The exception of a handler arrives once the number is known here.
                with signals.deferred():
                    signalled = signals.pending_descriptor()
                ready: set[int] = set()
                while ready.isdisjoint(watched):
                    ready = poll_readable([signalled, *watched])
                    # After the view's end too: an interrupt of the terminal was for the command.
                    for number in signals.take():
                        self.signal(number)
        finally:
            if signalled >= 0:
                os.close(signalled)

    def _finish(self) -> None:
        """Reap the monitor, after it has ended or a descriptor of `abort_on` is readable."""
        if not is_readable(self._monitor):
            self.kill()
        ended = os.waitid(os.P_PIDFD, self._monitor, os.WEXITED)
        assert ended is not None
        by_signal = ended.si_code != os.CLD_EXITED
        # The death of the monitor kills init: wait for that, too.
        if by_signal:
            poll_readable([self.init_fd])
        self._status = ended.si_status + (128 if by_signal else 0)
