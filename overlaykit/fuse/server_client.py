"""The client of the fork server: asks for a daemon, and takes over its process. `server` is the other side.

A connection carries one request. Messages are fields, separated by NUL:

    client -> server   START, the kind of namespaces, the identity, the encoding, the variables of the environment
    server -> client   READY and the pid, with the pidfd; or REFUSED and the reason
    client -> daemon   GO, with the channel and the standard error

Until GO the daemon has nothing of its client's, which starts another one if READY does not come in time.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import time

import overlaykit
from overlaykit import signals, sockets
from overlaykit.fuse import channel
from overlaykit.fuse.daemon_start import DaemonProcess
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Final

START: Final = b"start"
STATUS: Final = b"status"
STOP: Final = b"stop"
READY: Final = b"ready"
REFUSED: Final = b"refused"
GO: Final = b"go"

SOCKET: Final = "socket"
"""The name of the socket in the server's directory."""

LOADING: Final = "loading"
"""Its name until the server has loaded: its starter listens, so that requests wait."""

MOST_WAITING: Final = 256
"""Connections that wait for the server to accept them, and those without a request."""

ANSWERS_WITHIN_SECONDS: Final = 0.5
"""A running server answers in milliseconds. One that is stopped never does: a client waits for it about as long as a
cold start takes on a busy machine, so that it takes twice the time at worst."""

LOADS_WITHIN_SECONDS: Final = 10.0
"""The limit for a server that still loads. The wait ends at once if it dies."""

_STANDARD_ERROR: Final = 2
_OTHERS_MAY_WRITE: Final = 0o022
_INT_BYTES: Final = 4
_NAMESPACES: Final = ("mnt", "pid", "user")


def identity() -> bytes:
    """What the server must have in common with a client, for its daemon to be the one of a cold start.

    The files of the package are compared by the server: with those that it has loaded.
    """
    return "\n".join(
        (overlaykit.__version__, sys.executable, *map(os.path.abspath, overlaykit.__path__))
    ).encode("utf-8", "surrogateescape")


def encoding() -> bytes:
    """The encoding of paths, which an interpreter takes from its locale at its start."""
    return sys.getfilesystemencoding().encode()


class Refused(Exception):
    """The server does not serve this client, or not any more."""


class Starting:
    """A daemon that was asked for, and that may not come."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + seconds

    def take_over(self, ours: socket.socket, theirs: socket.socket) -> DaemonProcess:
        """Wait for the daemon, and have it go on with the channel `theirs`.

        Raises: Refused, or OSError: there is none; what a signal's handler raises.
        Ensures: then nothing has read from `theirs`.
        """
        try:
            message, descriptors = _receive(self._connection, self._deadline)
            verb, *fields = message.split(b"\0")
            if verb != READY or len(descriptors) != 1:
                channel.close_all(descriptors)
                raise Refused(*map(os.fsdecode, fields))
            try:
                channel.send(self._connection, GO, [theirs.fileno(), _STANDARD_ERROR])
            except OSError:
                channel.close_all(descriptors)
                raise
        finally:
            self._connection.close()
        return DaemonProcess(int(fields[0]), descriptors[0], ours, is_child=False)

    def has_answered(self) -> bool:
        """Whether `take_over` need not wait."""
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def cancel(self) -> None:
        """Do without it."""
        self._connection.close()


def connect(directory: str, name: str = SOCKET) -> socket.socket | None:
    """Connect to the server of a directory; None if there is none, or if it may be another user's.

    `name`: that of its socket.
    """
    try:
        found = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        st = os.fstat(found)
        if st.st_uid != os.geteuid() or st.st_mode & _OTHERS_MAY_WRITE:
            return None
        connection = sockets.socket(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
        try:
            connection = channel.above_standard(connection)
            # A server that is stopped may have a full backlog: do not wait for room in it.
            connection.setblocking(False)
            connection.connect(f"/proc/self/fd/{found}/{name}")
            if _is_own(connection):
                return connection
        except OSError:
            pass
        connection.close()
        return None
    finally:
        os.close(found)


def start(connection: socket.socket, kind: str, seconds: float) -> Starting | None:
    """Ask for a daemon in the namespaces `kind`. None if the server is gone."""
    variables = (name + b"=" + value for name, value in os.environb.items())
    message = b"\0".join((START, kind.encode(), identity(), encoding(), *variables))
    try:
        channel.send(connection, message)
    except OSError:  # or the environment is too long
        connection.close()
        return None
    return Starting(connection, seconds)


def ask(connection: socket.socket, verb: bytes) -> list[bytes]:
    """Ask for `STATUS`, or to `STOP`. Raises: OSError, Refused: there is no answer."""
    try:
        channel.send(connection, verb)
        message, descriptors = _receive(connection, time.monotonic() + ANSWERS_WITHIN_SECONDS)
        channel.close_all(descriptors)
    finally:
        connection.close()
    answered, *fields = message.split(b"\0")
    if answered != verb:
        raise Refused(*map(os.fsdecode, fields))
    return fields


def _receive(connection: socket.socket, deadline: float) -> tuple[bytes, list[int]]:
    """Receive a message before the deadline. Held signals arrive during the wait; their handlers may raise."""
    with signals.pending_readable() as signalled:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(signalled, select.POLLIN)
        while True:
            ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if connection.fileno() in ready:
                return channel.receive(connection)
            if not ready:
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            signals.let_arrive()


def _is_own(connection: socket.socket) -> bool:
    """Whether the server is a process of this user in the same namespaces: it gets descriptors."""
    pid, uid, _ = peer(connection)
    if uid != os.geteuid() or pid <= 0:
        return False
    with suppress(OSError):
        return all(
            os.path.samestat(os.stat(f"/proc/{pid}/ns/{name}"), os.stat(f"/proc/self/ns/{name}"))
            for name in _NAMESPACES
        )
    return False


def peer(connection: socket.socket) -> tuple[int, int, int]:
    """The pid, uid and gid of the other side: when it connected, or when it called listen(2)."""
    raw = connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, 3 * _INT_BYTES)
    pid, uid, gid = memoryview(raw).cast("i").tolist()
    return pid, uid & 0xFFFF_FFFF, gid & 0xFFFF_FFFF
