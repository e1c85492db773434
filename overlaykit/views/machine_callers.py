"""Commands that other callers run in a machine: each gets four ports of the guest, and speaks with the guest itself.

The process that relays for the machine listens on a socket in the view's entry. A caller sends the guest's ends of its
sockets, and gets the number of the first port. It says when the guest has the ports: QEMU drops what it says of more
ports than a guest takes at once, so one caller is served after another. Its connection lasts as long as it needs them.

A caller that reads the disk gets a descriptor of it, and the guest stands still as long as the connection lasts.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

from overlaykit.errors import Error
from overlaykit.machine.monitor import Monitor
from overlaykit.scope import suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NAME: Final = "machine"
"""The socket in the entry."""
_PORTS: Final = 4
_FIRST: Final = 5
"""After those of the machine's own command (`view_guest.STDIN`)."""
_MOST: Final = 6
"""Callers at once: a virtio serial device has 31 ports."""
READY: Final = b"r"
"""What a caller says once it has its ports."""
_PORTS_WANTED: Final = b"p"
_DISK_WANTED: Final = b"d"
_LONGEST: Final = 300


class NoPorts(Error):
    message = "{0}: the machine takes no other command now: {1}"


class Callers:
    """The callers of a machine that runs. `close` ends them.

    `tell`: says a line to the guest. `disk`: the open file of its disk.
    """

    def __init__(
        self, entry: str, monitor: Monitor, tell: Callable[[str], None], disk: int
    ) -> None:
        self._disk: Final = disk
        self._monitor: Final = monitor
        self._tell: Final = tell
        self._ports: Final[dict[socket.socket, int]] = {}
        self._new: Final[list[socket.socket]] = []
        self._paused: Final[set[socket.socket]] = set()
        """Those that read the disk."""
        self._pending: socket.socket | None = None
        """The one whose ports the guest may not have yet."""
        self._free: Final = list(range(_FIRST, _FIRST + _PORTS * _MOST, _PORTS))
        """First ports, the one that was used last at the end: the guest removes a port some time after its caller."""
        self._listening: Final = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with _directory(entry) as directory:
            self._listening.bind(f"/proc/self/fd/{directory.number}/{_NAME}")
        self._listening.listen()
        self._listening.setblocking(False)

    def close(self) -> None:
        for one in (self._listening, *self._new, *self._ports, *self._paused):
            one.close()

    def descriptors(self) -> list[int]:
        """What to wait for."""
        waiting = self._new if self._pending is None else ()
        return [one.fileno() for one in (self._listening, *waiting, *self._ports, *self._paused)]

    def act(self, ready: Iterable[int]) -> None:
        """Do what is due where these descriptors are readable."""
        for one in [*self._ports, *self._paused, *self._new]:
            if one.fileno() in ready and (one not in self._new or self._pending is None):
                self._read(one)
        if self._listening.fileno() in ready:
            with suppress(BlockingIOError):
                caller, _ = self._listening.accept()
                caller.setblocking(False)
                self._new.append(caller)

    def _read(self, caller: socket.socket) -> None:
        ends: list[int] = []
        try:
            said, ends, _, _ = socket.recv_fds(caller, 1, _PORTS)
            if caller is self._pending and said == READY:
                self._pending = None
            elif caller in self._new and said == _DISK_WANTED:
                self._pause(caller)
            elif caller not in self._new or len(ends) != _PORTS:
                self._forget(caller)
            else:
                self._new.remove(caller)
                caller.send(self._serve(caller, ends).encode()[:_LONGEST])
                if caller not in self._ports:
                    caller.close()
        except BlockingIOError:
            return
        except OSError:
            self._forget(caller)
        finally:
            for end in ends:
                os.close(end)

    def _serve(self, caller: socket.socket, ends: list[int]) -> str:
        if not self._free:
            return "too many run already"
        self._ports[caller] = first = self._free.pop(0)
        self._pending = caller
        try:
            self._monitor.add(first, ends)
        except (Error, OSError) as error:
            return str(error)
        self._tell(f"exec {first}")
        return str(first)

    def _pause(self, caller: socket.socket) -> None:
        """Have the guest stand still for a caller, which gets the disk. Raises: OSError."""
        self._new.remove(caller)
        self._paused.add(caller)
        try:
            self._monitor.pause()
        except (Error, OSError) as error:
            caller.send(str(error).encode()[:_LONGEST])
            self._forget(caller)
            return
        # Another open file: the caller only reads.
        disk = os.open(f"/proc/self/fd/{self._disk}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            socket.send_fds(caller, [READY], [disk])
        finally:
            os.close(disk)

    def _forget(self, caller: socket.socket) -> None:
        if caller in self._paused:
            self._paused.remove(caller)
            if not self._paused:
                with suppress(Error, OSError):
                    self._monitor.go_on()
        if caller in self._new:
            self._new.remove(caller)
        if caller is self._pending:
            self._pending = None
        first = self._ports.pop(caller, None)
        caller.close()
        if first is not None:
            self._free.append(first)
            with suppress(OSError):
                self._monitor.remove(first, _PORTS)


def ports(entry: str, name: str, ends: list[socket.socket]) -> tuple[socket.socket, int]:
    """Connect sockets with ports of the machine at `entry`: a connection to keep, and the number of the first port.

    Raises: NoPorts.
    """
    connection, answer, _ = _asked(entry, name, _PORTS_WANTED, [one.fileno() for one in ends])
    if not answer.isdecimal():
        connection.close()
        raise NoPorts(name, answer or "it ends")
    return connection, int(answer)


def paused(entry: str, name: str) -> tuple[socket.socket, int]:
    """Have the machine at `entry` stand still: a connection to keep meanwhile, and the open file of its disk.

    Raises: NoPorts.
    """
    connection, answer, files = _asked(entry, name, _DISK_WANTED, [])
    if not files:
        connection.close()
        raise NoPorts(name, answer or "it ends")
    return connection, files[0]


def _asked(
    entry: str, name: str, wanted: bytes, ends: list[int]
) -> tuple[socket.socket, str, list[int]]:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _directory(entry) as directory:
            connection.connect(f"/proc/self/fd/{directory.number}/{_NAME}")
        socket.send_fds(connection, [wanted], ends)
        answer, files, _, _ = socket.recv_fds(connection, _LONGEST, 1)
    except OSError as error:
        connection.close()
        raise NoPorts(name, error.strerror) from None
    return connection, answer.decode(), files


class _directory:  # noqa: N801  # as a function
    """A descriptor of a directory: a socket's path is short (unix(7))."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> _directory:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.number)
