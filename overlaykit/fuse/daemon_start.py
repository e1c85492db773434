"""The process of a daemon as its parent sees it, and the cold start: fork, enter namespaces, execute an interpreter."""

from __future__ import annotations

import errno
import os
import select
import sys

from overlaykit import _native, codec, signals, sockets
from overlaykit.fuse.spec import NotPrepared
from overlaykit.scope import suppress
from overlaykit.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Final, NoReturn

WRITTEN: Final = b"."
"""The daemon's last message: what was written is in the upper."""

_LAST_DESCRIPTOR: Final = 0xFFFF_FFFF
"""~0U: no limit for close_range(2)."""

_CLOSE_RANGE_CLOEXEC: Final = 4  # include/uapi/linux/close_range.h


class DaemonProcess:
    """A daemon's process, a child of this one or of the fork server.

    Attributes:
      pid, pidfd: the process. The pidfd is readable once it has ended.
      channel: the socket to it. `WRITTEN` is its last message.
      status: how a child has ended: its exit status, -N for signal N. None: it has not ended, or is no child.
    """

    def __init__(self, pid: int, pidfd: int, channel: socket.socket, *, is_child: bool) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.status: int | None = None
        self._is_child = is_child
        self._ended = False
        self._written: bool | None = None

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return not self.ends_within(0)

    def ends_within(self, seconds: float | None) -> bool:
        """Whether it ends within `seconds` (None: wait until it does). If so, it is reaped."""
        if self._ended:
            return True
        if not _readable((self.pidfd,), seconds):
            return False
        self._ended = True
        if self._is_child:
            with suppress(ChildProcessError):  # this program reaps every child
                _, status = os.waitpid(self.pid, 0)
                self.status = os.waitstatus_to_exitcode(status)
        return True

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if not self._ended:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def wait_until_written(self) -> bool:
        """Wait until all that was written is in the upper. Returns: False if it ended before.

        Requires: the mount was ready.
        """
        if self._written is None:
            if not self._ended:
                _readable((self.channel.fileno(), self.pidfd), None)
            try:
                self._written = self.channel.recv(len(WRITTEN), sockets.MSG_DONTWAIT) == WRITTEN
            except (BlockingIOError, ConnectionResetError):
                self._written = False
        return self._written

    def wait(self) -> bool:
        """Wait until it has ended. Returns: whether all that was written is in the upper."""
        written = self.wait_until_written()
        self.wait_for_end()
        return written

    def wait_for_end(self) -> None:
        """Wait until it has ended, ready or not."""
        self.ends_within(None)

    def close(self) -> None:
        """Close the descriptors, after its end or to leave it to itself."""
        self.channel.close()
        if self.pidfd >= 0:
            self._ended = True
            os.close(self.pidfd)
            self.pidfd = -1


def start_cold(
    ours: socket.socket, theirs: socket.socket, prepare: Callable[[], None] | None
) -> DaemonProcess:
    """Start a daemon with the socket `theirs`; a fresh interpreter has neither the memory nor the threads of this one.

    `prepare` runs first in the child and enters namespaces. If it raises an OSError, the daemon's reply is
    `spec.NotPrepared`. Requires: the descriptors are not standard ones.
    """
    with signals.all_blocked():
        child = os.fork()
        if child == 0:
            _execute(theirs, prepare)
    return DaemonProcess(child, os.pidfd_open(child), ours, is_child=True)


def _execute(channel: socket.socket, prepare: Callable[[], None] | None) -> NoReturn:
    """The child's side. Every signal is blocked until the daemon restores the mask."""
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1):
            os.dup2(null, standard)
        if prepare is not None:
            prepare()
        execute("overlaykit.fuse.daemon_process", channel.fileno())
    except OSError as error:
        report_refusal(channel, error)
    finally:
        os._exit(1)


def execute(module: str, *descriptors: int) -> NoReturn:
    """Execute a module in a fresh interpreter, with these descriptors and the standard ones alone.

    Their numbers are its first arguments.
    """
    _native.close_range(3, _LAST_DESCRIPTOR, _CLOSE_RANGE_CLOEXEC)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *map(str, descriptors)])


def report_refusal(channel: socket.socket, error: OSError) -> None:
    """Tell the parent that the daemon could not enter its namespaces."""
    with suppress(OSError):
        channel.sendall(codec.encode(NotPrepared(errno=error.errno or errno.EIO)))


def _readable(descriptors: tuple[int, ...], seconds: float | None) -> bool:
    """Whether one of the descriptors becomes readable within `seconds`."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(0, seconds) * 1000))
