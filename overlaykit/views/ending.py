"""End views that other processes have started."""

from __future__ import annotations

import os
import signal

from overlaykit.namespace.descriptors import poll_readable
from overlaykit.scope import contextmanager, suppress
from overlaykit.views.members import init_of
from overlaykit.views.registry import NotRunning, Registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from overlaykit.views.named import NamedView

_STARTING_MILLISECONDS: Final = 50


def stop(name: str, seconds: float) -> None:
    """Send SIGTERM to the command of a view; kill the view if it has not ended after so many seconds.

    Ensures: it has ended, and is not started again by itself. Raises: NotRunning.
    """
    view = restarting_view(name)
    if view is None:
        _stop(name, seconds)
        return
    view.forbid_restart()
    while view.is_running():
        with suppress(NotRunning):
            _stop(name, seconds)
            view.wait()
            return
        # It is about to start.
        poll_readable([], milliseconds=_STARTING_MILLISECONDS)


def restarting_view(name: str) -> NamedView | None:
    """The named view, if it is one that is started again at its end. It may wait for that."""
    from overlaykit.views import named

    with suppress(named.NoSuchView):
        view = named.NamedView(name)
        if view.definition().restart != "no":
            return view
    return None


def _stop(name: str, seconds: float) -> None:
    with supervisor(name) as process:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGTERM)
        if not poll_readable([process], milliseconds=round(seconds * 1000)):
            with suppress(NotRunning):
                kill(name)
            poll_readable([process])


def kill(name: str, number: int = signal.SIGKILL) -> None:
    """Send a signal of `signals.FORWARDED` to the command of a view, or kill all in it. Raises: NotRunning."""
    with supervisor(name) as process:
        if number != signal.SIGKILL:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
            return
        # Not the supervisor, which has work to do at the end.
        init = init_of(_process_of(process))
        if init is not None:
            with suppress(OSError):
                _kill(init, _process_of(process))


@contextmanager
def supervisor(name: str) -> Iterator[int]:
    """A pidfd of a view's supervisor."""
    found = Registry().find(name)
    if not found.about.supervisor:
        raise NotRunning(name)
    try:
        supervisor = os.pidfd_open(found.about.supervisor)
    except ProcessLookupError:
        raise NotRunning(name) from None
    try:
        # The process id was the supervisor's if the view has not ended since.
        if not found.is_running():
            raise NotRunning(name)
        yield supervisor
    finally:
        os.close(supervisor)


def _kill(init: int, supervisor: int) -> None:
    """Kill the init of a supervisor's view. Raises: OSError: it has ended."""
    pidfd = os.pidfd_open(init)
    try:
        # The process id may have been reused before the pidfd was open.
        if init_of(supervisor) == init:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def _process_of(pidfd: int) -> int:
    """The process id; -1 once the process has ended (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{pidfd}") as info:
        return next(int(line.split()[1]) for line in info if line.startswith("Pid:"))
