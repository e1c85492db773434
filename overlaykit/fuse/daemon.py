"""The parent's side of a daemon: start the process, pass the directories, wait until the mount is ready.

`daemon_process` is the other side, and `daemon_start` starts it. The two share one socket: the parent sends requests
with descriptors (`spec.StartRequest`), the daemon sends one reply (`spec.StartReply`), and at its end
`daemon_start.WRITTEN`. A daemon whose parent ends before the reply ends too.
"""

from __future__ import annotations

import os

from overlaykit import codec, signals, sockets
from overlaykit.errors import Error
from overlaykit.fuse import channel
from overlaykit.fuse.daemon_start import start_cold
from overlaykit.fuse.directories import device_of, shown_path
from overlaykit.fuse.server_client import Refused
from overlaykit.fuse.spec import (
    Cleanup,
    MountSpec,
    NotPrepared,
    PassedDirectory,
    Ready,
    StartReply,
)
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from typing import Final

    from overlaykit.fuse.daemon_start import DaemonProcess
    from overlaykit.fuse.server_client import Starting

_ENDS_WITHIN_SECONDS: Final = 3


class DaemonDied(Error):
    message = "the daemon ended before the mount was ready; {0}"


class MountRefused(Error):
    message = "{0}"


class UpperLocked(MountRefused):
    """Another daemon has locked the upper. `pid`: that daemon; 0 where it cannot be seen."""

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class NamespacesRefused(OSError):
    """The kernel refused the namespaces that `prepare` enters."""


def describe_log(path: str) -> str:
    """Where to find the log at `path`, for an error message. A daemon without warnings leaves none."""
    return f"its log: {path}" if path and os.path.exists(path) else "it left no log"


class Daemon:
    """A daemon process.

    Starting it and mounting are two steps: the parent prepares the mount while the new interpreter loads.

    Attributes:
      process: the process.
      mount: the detached mount's descriptor, which the caller closes (-1: none).
      device: the mount's st_dev.
      notes: restrictions that the user of the mount does not expect, a line each.
    """

    def __init__(
        self, *, prepare: Callable[[], None] | None = None, warm: Starting | None = None
    ) -> None:
        """Start the process. `prepare` runs first in the child and enters namespaces; only system calls: no locks.

        `warm`: a daemon of the fork server, which enters the same namespaces. Otherwise, or if it does not come, the
        start is cold.
        """
        self.mount = -1
        self.device = 0
        self.notes: tuple[str, ...] = ()
        self._prepare = prepare
        self._warm = warm
        self._process: DaemonProcess | None = None
        self._channel, self._theirs = channel.pair()
        if warm is None:
            self._start_cold()

    @property
    def process(self) -> DaemonProcess:
        """The process: waits for that of the fork server."""
        if self._process is None and self._warm is not None:
            warm, self._warm = self._warm, None
            with suppress(OSError, Refused):
                self._process = warm.take_over(self._channel, self._theirs)
                self._theirs.close()
        return self._process or self._start_cold()

    def _start_cold(self) -> DaemonProcess:
        self._process = start_cold(self._channel, self._theirs, self._prepare)
        self._theirs.close()
        return self._process

    def _send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a request; it waits in the channel until the process is there to receive it."""
        if self._warm is not None and self._warm.has_answered():
            self.process.is_alive()
        # If the daemon has ended already, `serve` raises.
        with suppress(BrokenPipeError, ConnectionResetError):
            try:
                channel.send(self._channel, message, descriptors, sockets.MSG_DONTWAIT)
            except BlockingIOError:
                self.process.is_alive()  # it receives what fills the channel
                channel.send(self._channel, message, descriptors)

    def set_cleanup(self, cleanup: Cleanup) -> None:
        """Have the daemon remove this if the parent ends before `serve`, which sends that of the spec."""
        self._send(codec.encode(cleanup))

    def hand_over(self, path: str, fd: int) -> str:
        """Pass a directory, which `path` led to, to the daemon. The descriptor stays the caller's.

        Returns: the absolute path that names the directory in the spec.
        """
        shown = shown_path(path, fd)
        self._send(codec.encode(PassedDirectory(shown)), [fd])
        return shown

    def serve(self, spec: MountSpec, control: socket.socket, *, keep: Sequence[int] = ()) -> None:
        """Mount `spec`, and return once the mount answers.

        `control` listens for `control.ask`. The descriptors `keep` (locks) stay open in the daemon as long as it lives.
        Signals that the caller holds arrive during the wait.
        Raises: Error, OSError (NamespacesRefused), or what a signal's handler raises.
        Ensures: if it raises, the daemon has ended, and left nothing.
        """
        try:
            self._send(codec.encode(spec), [control.fileno(), *keep])
            self.process.is_alive()
            # An attached mount must be unmounted before a signal ends this process.
            signals.await_readable(self._channel.fileno(), orderly=spec.target is not None)
            reply, received = self._receive_reply()
        except BaseException:
            self.abandon()
            if spec.target is not None:
                from overlaykit.fuse import unmount

                unmount.discard(spec.target)
            raise
        if isinstance(reply, Ready):
            self.mount = received[0] if received else -1
            self.device = reply.device
            self.notes = reply.notes
            return
        self.process.wait_for_end()
        self.process.close()
        if reply is None:
            raise DaemonDied(describe_log(spec.log_path))
        if isinstance(reply, NotPrepared):
            raise NamespacesRefused(reply.errno, os.strerror(reply.errno))
        if reply.upper_locked_by >= 0:
            raise UpperLocked(reply.message, reply.upper_locked_by)
        if reply.message:
            raise MountRefused(reply.message)
        raise OSError(reply.errno, os.strerror(reply.errno), reply.path)

    def _receive_reply(self) -> tuple[StartReply | None, list[int]]:
        """Receive the reply, with its descriptors; None if the daemon has ended without one."""
        # If the daemon ended with messages unread, the first recvmsg(2) fails, and the second has its reply.
        for _ in range(2):
            with suppress(ConnectionResetError):
                raw, received = channel.receive(self._channel)
                if received:
                    # The usual reply needs no `decode`, which loads json.
                    usual = Ready(device_of(received[0]))
                    if raw == codec.encode(usual):
                        return usual, received
                return (codec.decode(raw, StartReply) if raw else None), received
        return None, []

    def abandon(self) -> None:
        """End it before it is ready: by closing the socket, or else by signals."""
        self._channel.close()
        if self._warm is not None:
            self._warm.cancel()
        if self._process is None:  # it has not come, or could not be started
            self._theirs.close()
            return
        if not self.process.ends_within(_ENDS_WITHIN_SECONDS):
            self.end()
        self.process.close()

    def end(self) -> None:
        """End it even if files are in use, and wait until it has ended."""
        for send_signal in (self.process.terminate, self.process.terminate, self.process.kill):
            send_signal()
            if self.process.ends_within(_ENDS_WITHIN_SECONDS):
                break
        self.process.wait_for_end()

    def close_mount(self) -> None:
        """Close the mount's descriptor. The mount ends with the last process that uses it."""
        if self.mount >= 0:
            os.close(self.mount)
            self.mount = -1
