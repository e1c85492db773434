"""The end of a mount: unmount, wait for its daemon, say who still holds it, or end it for them.

A mount is known by its device number, which a registry entry notes down: other mounts may have its path, in this mount
namespace later on or in others now. No wait is without bound, and signals arrive in all of them.
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
    from collections.abc import Callable, Iterator

    from overlaykit.mountinfo import Mount
    from overlaykit.views.registry import Running

TIMEOUT: Final = 10.0
"""Seconds that `umount` waits for the daemon's end at most, if nothing else is asked for."""

_ENDING: Final = 1.0
"""Seconds that a mount which is not mounted here any more may take to end before it is said to be held."""

_SOON: Final = 3.0
"""Seconds after which it is said why a mount has not ended, and a step of an end by force is given up."""


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


class UpperHeld(Error):
    message = "upper {0} is in use by {1}: {2}, or choose another upper"


def umount(
    target: str,
    *,
    lazy: bool = False,
    force: bool = False,
    timeout: float = TIMEOUT,
    on_delay: Callable[[str], None] = lambda held_by: None,
) -> None:
    """Unmount, and return once its daemon has ended: what was written is in the upper, and nothing holds the layers.

    Args:
      target: a mountpoint in this mount namespace, or the name of a mount.
      lazy: take it out of sight though it is in use; it ends with its last user, and is not waited for until then.
      force: end its connection; all that its users have written is flushed if they let us, and they get ENOTCONN.
      timeout: seconds to wait for the daemon's end at most.
      on_delay: called once with the holders, in words, if that takes its time.

    Raises Error: NotMounted, Busy, Covered, Unanswered, StillHeld, MountedElsewhere, DaemonStuck.
    """
    registry = Registry()
    mounted = mountpoints.find(target)
    one = registry.of_mount(target) if mounted is None else registry.serving(mounted.device)
    if mounted is None:
        if one is None:
            raise mountpoints.NotMounted(target)
        mounted = next(iter(mountpoints.of_device(one.about.device)), None)
    if force:
        _force(target, mounted, one)
        registry.clear()
    elif mounted is None:
        assert one is not None
        with _process(
            one
        ) as ended:  # it may be ending: another one may have unmounted it a moment ago
            if ended >= 0 and not unmount.readable_within(ended, min(timeout, _ENDING)):
                raise MountedElsewhere(target, one.about.name, _held_by(one))
    else:
        unmount.detach(mounted, lazy=lazy, goes_on=_progress(one))
        if mountpoints.of_device(mounted.device):
            return  # a bind mount of it, and another one is left
        if one is not None and not (
            lazy and holders.find(mounted.device, besides=one.about.daemon)
        ):
            _await_end(target, one, timeout, on_delay)
    registry.leave()


def upper_held(upper: str, daemon: int) -> UpperHeld:
    """Who has an upper in use, of which its daemon is known (0: it is not), and the way out."""
    registry = Registry()
    one = next((one for one in registry.running() if one.about.daemon == daemon), None)
    if one is None:
        which = f"process {daemon}" if daemon else "another view or mount"
        return UpperHeld(upper, which, "end that one first")
    name = one.about.name
    if one.about.target is None:
        return UpperHeld(upper, f"view {name} (process {one.about.pid})", "end that one first")
    shown = mountpoints.of_device(one.about.device)
    if shown:
        target = shown[0].mountpoint
        return UpperHeld(upper, f"the mount at {target}", f"'overlaykit umount {target}' first")
    return UpperHeld(
        upper,
        f"mount {name}, which is not mounted here any more but held by {_held_by(one)}",
        f"end these, or the mount with 'overlaykit umount --force {name}'",
    )


def discard(one: Running) -> None:
    """End a mount that was made a moment ago, also if it is in use."""
    _force(one.about.name, next(iter(mountpoints.of_device(one.about.device)), None), one)
    registry = Registry()
    registry.clear()
    registry.leave()


def _await_end(target: str, one: Running, timeout: float, on_delay: Callable[[str], None]) -> None:
    deadline = time.monotonic() + timeout
    with _process(one) as ended:
        if ended < 0 or unmount.readable_within(ended, min(timeout, _SOON)):
            return
        on_delay(_held_by(one))
        if not unmount.readable_within(ended, deadline - time.monotonic()):
            raise StillHeld(target, one.about.name, _held_by(one))


def _force(target: str, mounted: Mount | None, one: Running | None) -> None:
    """Flush, end the connection, end the daemon, and take the mount out of sight: each for so long and no longer."""
    if one is not None:
        _flush(mounted, one)
        with _process(one) as ended:
            with contextlib.suppress(OSError):
                control.ask(one.control, control.End(), seconds=_SOON)
            if ended >= 0 and not unmount.readable_within(ended, _SOON):
                # Its end closes the connection. To abort that by its number is for a daemon that cannot end: once the
                # mount is gone, another one's connection may have the number.
                signal.pidfd_send_signal(ended, signal.SIGKILL)
                if not unmount.readable_within(ended, _SOON):
                    unmount.abort(one.about.device)
                    if not unmount.readable_within(ended, _SOON):
                        raise DaemonStuck(target, one.about.daemon)
    elif mounted is not None:
        unmount.abort(mounted.device)
    if mounted is not None:
        unmount.detach(mounted, lazy=True)


def _progress(one: Running | None) -> Callable[[], bool]:
    """A question whether the daemon has answered any request of the kernel's since it was asked last."""
    seen = 0

    def goes_on() -> bool:
        nonlocal seen
        before = seen
        with contextlib.suppress(OSError):
            if one is not None:
                counted = control.ask(one.control, control.Count(), seconds=_SOON)
                if isinstance(counted, control.Counted):
                    seen = sum(counted.requests.values())
        return seen > before

    return goes_on


def _flush(mounted: Mount | None, one: Running) -> None:
    """Have the kernel write to the daemon what programs have written so far, as sync(1) does with a path of a mount."""
    paths = [mounted.mountpoint] if mounted is not None else []
    for holder in holders.find(one.about.device, besides=one.about.daemon):
        with contextlib.suppress(OSError):
            paths += holders.paths(holder.pid, one.about.device)
    for path in paths[:1]:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                ["sync", "--file-system", path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_SOON,
                check=False,
            )


def _held_by(one: Running) -> str:
    found = holders.find(one.about.device, besides=one.about.daemon)
    return holders.describe(found) if found else f"its daemon alone (process {one.about.daemon})"


@contextlib.contextmanager
def _process(one: Running) -> Iterator[int]:
    """A pidfd of the daemon; -1 if it has ended."""
    try:
        process = os.pidfd_open(one.about.daemon)
    except ProcessLookupError:
        yield -1
        return
    try:
        yield process if one.is_running() else -1
    finally:
        os.close(process)
