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

KILL_MACHINE: Final = signal.SIGRTMIN
"""Tells the process that relays for a machine that it is killed, not broken."""

_STARTING_MILLISECONDS: Final = 50


def stop(view: str | NamedView, seconds: float) -> None:
    """Send SIGTERM to the command of a view; kill the view if it has not ended after so many seconds.

    Ensures: it has ended, and is not started again by itself. Raises: NotRunning.
    """
    named = _named(view)
    if named is None or not is_started_again(named):
        _stop(view, seconds)
        return
    named.forbid_restart()
    while named.is_running():
        with suppress(NotRunning):
            _stop(named, seconds)
            named.wait()
            return
        # It is about to start.
        poll_readable([], milliseconds=_STARTING_MILLISECONDS)


def is_started_again(view: NamedView) -> bool:
    """Whether the view is one that is started again at its end. It may wait for that. Raises: NoSuchView."""
    return view.definition().restart != "no"


def _named(view: str | NamedView) -> NamedView | None:
    from overlaykit.views import named

    if not isinstance(view, str):
        return view
    with suppress(named.NoSuchView):
        return named.NamedView(view)
    return None


def _stop(view: str | NamedView, seconds: float) -> None:
    with _processes(view) as (process, receiver):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(receiver, signal.SIGTERM)
        if not poll_readable([process], milliseconds=round(seconds * 1000)):
            _kill(process, receiver)
            poll_readable([process])


def kill(view: str | NamedView, number: int = signal.SIGKILL) -> None:
    """Send a signal of `signals.FORWARDED` to the command of a view, or kill all in it. Raises: NotRunning."""
    with _processes(view) as (process, receiver):
        if number == signal.SIGKILL:
            _kill(process, receiver)
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(receiver, number)


@contextmanager
def supervisor(view: str | NamedView) -> Iterator[int]:
    """A pidfd of the supervisor of a view: of that name, or of that directory. Raises: NotRunning."""
    with _processes(view) as (process, _):
        yield process


@contextmanager
def _processes(view: str | NamedView) -> Iterator[tuple[int, int]]:
    """Pidfds of the supervisor, and of the process that takes signals for the command: of a machine, another one."""
    name = view if isinstance(view, str) else view.name
    found = (
        Registry().find(name) if isinstance(view, str) else Registry().find_kept(view.kept, name)
    )
    if not found.about.supervisor:
        raise NotRunning(name)
    opened: list[int] = []
    try:
        try:
            opened += [os.pidfd_open(found.about.supervisor)]
            if found.about.machine:
                opened += [os.pidfd_open(found.about.machine)]
        except ProcessLookupError:
            raise NotRunning(name) from None
        # The process ids were theirs if the view has not ended since.
        if not found.is_running():
            raise NotRunning(name)
        yield opened[0], opened[-1]
    finally:
        for one in opened:
            os.close(one)


def _kill(supervisor: int, receiver: int) -> None:
    """Kill the init of a view, and not the supervisor, a pidfd, which has work to do at the end."""
    if receiver != supervisor:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(receiver, KILL_MACHINE)
    init = init_of(_process_of(supervisor))
    if init is None:
        return
    with suppress(OSError):  # it has ended
        pidfd = os.pidfd_open(init)
        try:
            # The process id may have been reused before the pidfd was open.
            if init_of(_process_of(supervisor)) == init:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def _process_of(pidfd: int) -> int:
    """The process id; -1 once the process has ended (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{pidfd}") as info:
        return next(int(line.split()[1]) for line in info if line.startswith("Pid:"))
