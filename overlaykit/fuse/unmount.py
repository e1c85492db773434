"""Unmount: at once, lazily, or by ending the connection. Signals interrupt a caller that waits for the daemon."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from typing import TYPE_CHECKING, Final, NoReturn

from overlaykit import _native, mountinfo
from overlaykit.errors import Error
from overlaykit.fuse import holders
from overlaykit.fuse.mount import HELPER
from overlaykit.fuse.mountpoints import find, with_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlaykit.mountinfo import Mount

_HELPER_FAILED: Final = errno.EPERM
"""The exit status of fusermount3, 1, taken for an errno."""

_PROGRESS_SECONDS: Final = 3.0
"""How often a caller checks for progress."""

_HANDLED: Final = (signal.SIGTERM, signal.SIGINT)
"""By a daemon."""

_LAST_DESCRIPTOR: Final = 0xFFFF_FFFF
"""~0U: no limit for close_range(2)."""


class Busy(Error):
    message = "{0}: in use by {1}: end these, or let the mount end with them: 'overlaykit umount --lazy {0}'"


class Covered(Error):
    message = "{0}: other mounts lie in it: unmount these first: {1}"


class Unanswered(Error):
    message = (
        "{0}: its daemon does not answer, so that what was written cannot be flushed: it is "
        "unmounted once that is done; to end it without: 'overlaykit umount --force {0}'"
    )


def detach(
    mounted: Mount, *, lazy: bool = False, goes_on: Callable[[], bool] = lambda: False
) -> None:
    """Unmount after flushing all writes. `lazy`: detach it now, and let it end with its last user.

    A child makes the system call, in which the kernel waits for the daemon, so signals interrupt this process.
    `goes_on` says from time to time whether the daemon makes progress.
    Raises Error: Busy, Covered, Unanswered.
    """
    target = mounted.mountpoint
    flags = _native.UMOUNT_NOFOLLOW | (_native.MNT_DETACH if lazy else 0)
    failed = _in_child(lambda: _native.umount2(target, flags), goes_on)
    if failed == errno.EPERM:
        options = ["-u", "-z"] if lazy else ["-u"]
        failed = _in_child(lambda: _run_helper([*options, "--", target]), goes_on)
    if failed is None:
        raise Unanswered(target)
    if failed in (errno.EINVAL, _HELPER_FAILED) and with_id(mounted.id) is None:
        # Another process has unmounted it.
        return
    if failed in (errno.EBUSY, _HELPER_FAILED):
        inside = [one.mountpoint for one in mountinfo.current() if one.parent == mounted.id]
        if inside:
            raise Covered(target, " ".join(inside))
        using = [one for one in holders.find(mounted.device) if one.uses]
        if not using and holders.is_user(os.getpid(), mounted.device):
            raise Busy(
                target, "this command itself, whose working directory or open files lie there"
            )
        raise Busy(target, holders.describe(using))
    if failed:
        raise OSError(failed, os.strerror(failed), target)


def discard(target: str) -> None:
    """Detach the mount at `target`, if there is one. Its daemon has ended."""
    mounted = find(target)
    if mounted is not None:
        with contextlib.suppress(Error, OSError):
            detach(mounted, lazy=True)


def _in_child(act: Callable[[], object], goes_on: Callable[[], bool]) -> int | None:
    """Make system calls in a child. Returns 0, the errno that they failed with, or None if there is no progress.

    A child without progress stays: a process that waits for a file system cannot be killed.
    """
    child = os.fork()
    if child == 0:
        failed = errno.EIO
        try:
            # A process that reads the output of this one waits for the last descriptor to close.
            _native.close_range(0, _LAST_DESCRIPTOR, 0)
            act()
            failed = 0
        except OSError as error:
            failed = error.errno or errno.EIO
        finally:
            os._exit(failed)
    ended = os.pidfd_open(child)
    try:
        while not readable_within(ended, _PROGRESS_SECONDS):
            if not goes_on():
                return None
    finally:
        os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run_helper(arguments: list[str]) -> NoReturn:
    """Execute fusermount3. Its exit status is 1 for every failure, mostly a mount in use."""
    for _ in range(3):
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    os.execlp(HELPER, HELPER, *arguments)


def readable_within(descriptor: int, seconds: float) -> bool:
    """Whether a descriptor becomes readable within `seconds`."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0, seconds) * 1000))


def abort(device: int) -> None:
    """End the connection of a mount with its daemon, if fusectl permits it. Users of the mount get ENOTCONN.

    The connection's number is the minor device number (Documentation/filesystems/fuse/fuse.rst).
    """
    path = f"/sys/fs/fuse/connections/{os.minor(device)}/abort"
    with contextlib.suppress(OSError), open(path, "w") as file:
        file.write("1")


def detach_when_unused(mount_id: int) -> int:
    """Start to unmount; if the mount is in use, detach it, and let it end with its last user.

    Returns the pid of a child that does it: the kernel writes pages back through this process while it unmounts. It
    does nothing if no process is left in the mount's namespace.
    """
    child = os.fork()
    if child == 0:
        _detach_when_unused(mount_id)
    return child


class Helper:
    """A process that does the same for a daemon which may execute no fusermount3 any more, once that asks for it.

    It ends with the daemon. `pid`: its process. `ended`: its pidfd. Requires: no thread runs.
    """

    def __init__(self, mount_id: int) -> None:
        waiting, self._asking = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                # It keeps neither the connection with the kernel nor a lock.
                os.dup2(waiting, 0)
                _native.close_range(1, _LAST_DESCRIPTOR, 0)
                for number in _HANDLED:
                    signal.signal(number, signal.SIG_DFL)
                if os.read(0, 1):
                    os.close(0)
                    for _ in range(3):
                        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
                    _detach_when_unused(mount_id)
            finally:
                os._exit(1)
        os.close(waiting)
        self.ended = os.pidfd_open(self.pid)

    def detach_when_unused(self) -> None:
        """Start to unmount. Its process ends then."""
        with contextlib.suppress(BrokenPipeError):  # it was killed
            os.write(self._asking, b".")


def _detach_when_unused(mount_id: int) -> NoReturn:
    try:
        mounted = _enter_namespace_of(mount_id)
        if mounted is not None:
            try:
                _native.umount2(mounted.mountpoint, _native.UMOUNT_NOFOLLOW)
            except PermissionError:
                os.execlp(HELPER, HELPER, "-u", "-z", "--", mounted.mountpoint)
            except OSError:
                flags = _native.UMOUNT_NOFOLLOW | _native.MNT_DETACH
                _native.umount2(mounted.mountpoint, flags)
    except BaseException:
        os._exit(1)
    finally:
        os._exit(0)


def _enter_namespace_of(mount_id: int) -> Mount | None:
    """Join the mount namespace of a mount. Returns the mount there, or None if no process is left in it."""
    candidates: list[int | str] = ["self", *holders.processes()]
    for process in candidates:
        # The process has ended, or may not be inspected.
        with contextlib.suppress(OSError):
            if any(one.id == mount_id for one in mountinfo.of_process(process)):
                if process != "self":
                    namespace = os.open(f"/proc/{process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
                    _native.setns(namespace, _native.CLONE_NEWNS)
                return with_id(mount_id)
    return None


def detach_own(path: str) -> None:
    """Detach a mount of this process's own mount namespace, with those below it; do nothing if it is gone."""
    with contextlib.suppress(OSError):
        _native.umount2(path, _native.UMOUNT_NOFOLLOW | _native.MNT_DETACH)
