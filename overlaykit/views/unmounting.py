"""Unmounting: detach a mount, wait for its daemon, name the processes that hold it, or end it by force.

The device number in a registry entry identifies a mount: other mounts may have the same path, later in this mount
namespace or now in others. Every wait has a bound, and signals arrive during all of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Final

from overlaykit.errors import Error
from overlaykit.fuse import control, holders, mountpoints, unmount
from overlaykit.views.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overlaykit.mountinfo import Mount
    from overlaykit.views.registry import RunningView

TIMEOUT: Final = 10.0
"""The default time limit of `umount`, in seconds."""

_DETACHED_SECONDS: Final = 1.0
"""How long a mount that is detached already may take to end before `umount` reports its holders."""

_DELAY_SECONDS: Final = 3.0
"""How long `umount` waits before it reports a delay."""

_STEP_SECONDS: Final = 3.0
"""The time limit of each step of an unmount by force."""


class StillHeld(Error):
    message = (
        "{0}: unmounted here, but its upper and layers stay in use until its last users end: held "
        "by {2}; end these, or the mount with 'overlaykit umount --force {1}'"
    )


class MountedElsewhere(Error):
    message = (
        "{0}: not mounted in this mount namespace any more, but held by {2}: end these, or the "
        "mount with 'overlaykit umount --force {1}'"
    )


class DaemonStuck(Error):
    message = "{0}: its daemon, process {1}, does not end: a disk below may not answer"


def umount(
    target: str,
    *,
    lazy: bool = False,
    force: bool = False,
    timeout: float = TIMEOUT,
    on_delay: Callable[[str], None] = lambda held_by: None,
) -> None:
    """Unmount, and return once the daemon has ended: the upper has all that was written, the layers are free.

    Args:
      target: a mountpoint in this mount namespace, or the name of a mount.
      lazy: detach a mount that is in use; it ends with its last user, and `umount` does not wait for that.
      force: end its connection; what its users have written is flushed as far as permitted, and they get ENOTCONN.
      timeout: the longest wait for the daemon's end, in seconds.
      on_delay: called once, with a description of the holders, if the wait is long.

    Raises: NotMounted, Busy, Covered, Unanswered, StillHeld, MountedElsewhere, DaemonStuck.
    """
    registry = Registry()
    mounted = mountpoints.find(target)
    if mounted is None:
        running = registry.find_mount(target)
        if running is None:
            raise mountpoints.NotMounted(target)
        mounted = next(iter(mountpoints.of_device(running.about.device)), None)
    else:
        running = registry.find_device(mounted.device)
    if force:
        _force(target, mounted, running)
        registry.remove_ended()
    elif mounted is not None:
        unmount.detach(mounted, lazy=lazy, goes_on=_progress(running))
        if mountpoints.of_device(mounted.device):
            return  # a bind mount of it is left
        if running is not None and not (
            lazy and holders.find(mounted.device, besides=running.about.daemons)
        ):
            _wait_for_end(target, running, timeout, on_delay)
    elif running is not None and not _ends_within(running, min(timeout, _DETACHED_SECONDS)):
        raise MountedElsewhere(target, running.about.name, running.describe_holders())
    registry.remove_if_empty()


def unmount_by_force(running: RunningView) -> None:
    """End a mount, also if it is in use, and remove its entry. Raises: DaemonStuck."""
    mounted = next(iter(mountpoints.of_device(running.about.device)), None)
    _force(running.about.name, mounted, running)
    registry = Registry()
    registry.remove_ended()
    registry.remove_if_empty()


def _wait_for_end(
    target: str, running: RunningView, timeout: float, on_delay: Callable[[str], None]
) -> None:
    deadline = time.monotonic() + timeout
    if _ends_within(running, min(timeout, _DELAY_SECONDS)):
        return
    on_delay(running.describe_holders())
    if not _ends_within(running, deadline - time.monotonic()):
        raise StillHeld(target, running.about.name, running.describe_holders())


def _force(target: str, mounted: Mount | None, running: RunningView | None) -> None:
    """Flush, end the connection and the daemon, detach the mount. Each step has a time limit."""
    if running is not None:
        _flush(mounted, running)
        _end_daemon(target, running)
    elif mounted is not None:
        unmount.abort(mounted.device)
    if mounted is not None:
        unmount.detach(mounted, lazy=True)


def _end_daemon(target: str, running: RunningView) -> None:
    """End the daemon, whose end closes the connection: ask it, kill it, abort the connection. Raises: DaemonStuck.

    The abort comes last, for a daemon that cannot end: it takes the connection's number, which another mount may have
    once this one is gone.
    """
    with _pidfds(running) as ends:
        with contextlib.suppress(OSError):
            control.ask(running.control, control.End(), control.Ending, seconds=_STEP_SECONDS)
        if _have_ended(ends, _STEP_SECONDS):
            return
        for ended in ends:  # a keeper first
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(ended, signal.SIGKILL)
        if _have_ended(ends, _STEP_SECONDS):
            return
        unmount.abort(running.about.device)
        if not _have_ended(ends, _STEP_SECONDS):
            raise DaemonStuck(target, running.about.daemon)


def _progress(running: RunningView | None) -> Callable[[], bool]:
    """A function that says whether the daemon has answered a request of the kernel's since its last call."""
    answered = 0

    def goes_on() -> bool:
        nonlocal answered
        before = answered
        with contextlib.suppress(OSError):
            if running is not None:
                counted = control.ask(
                    running.control, control.Stats(), control.Measured, seconds=_STEP_SECONDS
                )
                answered = sum(counted.requests.values()) + counted.answered
        return answered > before

    return goes_on


def _flush(mounted: Mount | None, running: RunningView) -> None:
    """Have the kernel write its dirty pages to the daemon, as sync(1) does for a path in a mount."""
    paths = [mounted.mountpoint] if mounted is not None else []
    for holder in holders.find(running.about.device, besides=running.about.daemons):
        with contextlib.suppress(OSError):
            paths += holders.paths(holder.pid, running.about.device)
    if not paths:
        return
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ["sync", "--file-system", paths[0]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_STEP_SECONDS,
            check=False,
        )


def _ends_within(running: RunningView, seconds: float) -> bool:
    """Wait until the daemon has ended, and its keeper, at most so long."""
    with _pidfds(running) as ends:
        return _have_ended(ends, seconds)


def _have_ended(pidfds: Sequence[int], seconds: float) -> bool:
    """Wait until all of these processes have ended, at most so long."""
    deadline = time.monotonic() + seconds
    return all(unmount.readable_within(one, deadline - time.monotonic()) for one in pidfds)


@contextlib.contextmanager
def _pidfds(running: RunningView) -> Iterator[list[int]]:
    """Pidfds of the daemon and its keeper, without those that have ended: the keeper first."""
    with contextlib.ExitStack() as closing:
        pidfds = []
        for process in running.about.daemons:
            with contextlib.suppress(ProcessLookupError):
                pidfds.append(os.pidfd_open(process))
                closing.callback(os.close, pidfds[-1])
        yield pidfds if running.is_running() else []
