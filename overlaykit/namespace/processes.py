"""A view that runs, seen from the process that launched it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Final, final

from overlaykit import procfs, signals
from overlaykit.namespace.descriptors import is_readable, poll_readable
from overlaykit.namespace.spec import Port


@final
class Processes:
    """The processes of a launched view; a context manager, whose end is theirs.

    Attributes:
      init_pid: the view's PID 1, by its number in the caller's PID namespace.
      init_fd: its pidfd; readable once it, and so every process of the view, has ended.
      ports: what is published, each with the host's port that was really bound.
    """

    def __init__(
        self, *, monitor: int, init_pid: int, init_fd: int, ports: tuple[Port, ...]
    ) -> None:
        self.init_pid: Final = init_pid
        self.init_fd: Final = init_fd
        self.ports: Final = ports
        self._monitor: Final = monitor
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

        When one of the descriptors `abort_on` becomes readable first, the view is killed (and the status 137). In the
        main thread, signals of `signals.FORWARDED` that other processes send to this one meanwhile are passed
        on to the command; those of the terminal it gets itself. Dispositions stay untouched.
        """
        if self._status is None:
            watched = [self._monitor, *abort_on]
            if threading.current_thread() is threading.main_thread():
                self._wait_forwarding(watched)
            else:
                poll_readable(watched)
            self._finish()
        assert self._status is not None
        return self._status

    def signal(self, number: int) -> None:
        """Send a signal of `signals.FORWARDED` to the command, through init; an ended view takes no notice."""
        if self._closed:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.init_fd, number)

    def kill(self) -> None:
        """End every process of the view at once; `wait` then returns 137."""
        self.signal(signal.SIGKILL)

    def count(self) -> int:
        """How many processes the view holds, init among them; 0 once it has ended.

        They are init's descendants: an orphan becomes a child of init's, and no process leaves its PID namespace.
        """
        if self._closed or is_readable(self.init_fd):
            return 0
        return 1 + len(procfs.descendants(self.init_pid))

    def close(self) -> None:
        """Kill what still runs, wait until it is gone, release the descriptors. Again does nothing."""
        if self._closed:
            return
        if self._status is None:
            self.kill()
            self._finish()
        self._closed = True
        os.close(self.init_fd)
        os.close(self._monitor)

    def _wait_forwarding(self, watched: list[int]) -> None:
        with signals.held(), signals.waiting() as signalled:
            ready: set[int] = set()
            while ready.isdisjoint(watched):
                ready = poll_readable([signalled, *watched])
                for number in signals.take():  # at the end too: a terminal's interrupt is not ours
                    self.signal(number)

    def _finish(self) -> None:
        """Reap the monitor, once it or something that must not outlive the view has ended."""
        if not is_readable(self._monitor):
            self.kill()
        ended = os.waitid(os.P_PIDFD, self._monitor, os.WEXITED)
        assert ended is not None
        by_signal = ended.si_code != os.CLD_EXITED
        if by_signal:  # the monitor's own death kills init: that much is still to be waited for
            poll_readable([self.init_fd])
        self._status = ended.si_status + (128 if by_signal else 0)
