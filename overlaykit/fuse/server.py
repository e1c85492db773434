"""The fork server: has loaded all that a daemon needs, and forks one for each request.

It is single-threaded, and at rest it writes nothing: a daemon shares its pages. Nothing of a mount passes through it: a
client sends layers and locks over the channel to the daemon. `server_client` says how it is asked, `server_peer` who
may ask. A daemon takes over what a cold one has of its parent. It lives on when the server ends.

The server ends some time after the last of its daemons and the last request. If it is asked to end, or if a file that
it has loaded has changed, it takes no new request, and ends with the last of its daemons, which it reaps.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from overlaykit import _native
from overlaykit.fuse import channel, daemon_process, image, server_peer
from overlaykit.fuse.daemon_start import report_refusal
from overlaykit.fuse.image import Image
from overlaykit.fuse.server_client import (
    GO,
    LOADING,
    MOST_WAITING,
    READY,
    REFUSED,
    SOCKET,
    START,
    STATUS,
    STOP,
    encoding,
    identity,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from overlaykit.fuse.server_code import Code

log: Final = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SIGNALFD_INFO_BYTES: Final = 128
_STALE: Final = 75
"""The exit status of a child that found a file changed."""

_LESSER: Final = 76
"""The exit status of a child that may not have a client's higher limits: a server of this client's can serve both."""

_FIXED_VARIABLES: Final = (b"PYTHON", b"LD_", b"GLIBC_", b"MALLOC_", b"OVERLAYKIT_FAULT")
"""Variables that act when an interpreter or a module is loaded: they cannot be taken over."""

_HARMLESS_VARIABLES: Final = frozenset(
    {
        b"PYTHONASYNCIODEBUG",  # not used
        b"PYTHONBREAKPOINT",
        b"PYTHONDONTWRITEBYTECODE",  # all is loaded
        b"PYTHONHASHSEED",  # the order in a set, on which nothing depends
        b"PYTHONNODEBUGRANGES",  # the form of a traceback
        b"PYTHONPYCACHEPREFIX",
        b"PYTHONSTARTUP",  # of the interactive interpreter
        b"PYTHONUNBUFFERED",  # a daemon prints nothing
        b"PYTHON_BASIC_REPL",
        b"PYTHON_COLORS",
        b"PYTHON_HISTORY",
    }
)
"""Exceptions, which change nothing in what a daemon does (python(1))."""


class Server:
    """A server that listens in its directory.

    `listener`: its socket, on which requests may wait already.
    `prepare`: what the daemon does first, by the kind of namespaces that a client asks for.
    `idle_seconds`: how long it stays without daemons and requests.
    """

    def __init__(
        self,
        directory: int,
        listener: socket.socket,
        code: Code,
        prepare: Mapping[str, Callable[[], None]],
        idle_seconds: float,
    ) -> None:
        self._directory = directory
        self._code = code
        self._prepare = prepare
        self._idle_seconds = idle_seconds
        self._identity = identity()
        self._encoding = encoding()
        self._variables = _fixed(os.environb)
        self._traits = server_peer.Traits("self")
        self._waiting: dict[int, socket.socket] = {}
        self._children: set[int] = set()
        self._image = image.create()
        self._publisher = 0
        self._served = 0
        self._is_ended = False
        self._last = time.monotonic()
        signal.pthread_sigmask(signal.SIG_SETMASK, _SIGNALS)
        mask = sum(1 << (number - 1) for number in _SIGNALS)
        self._signals = _native.signalfd4(-1, mask, os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._signals, select.POLLIN)
        self._listener: socket.socket | None = self._listen(listener)
        self._neighbour = -1
        self._watch_neighbour()

    def run(self) -> None:
        """Answer requests until it is time to end."""
        gc.collect()
        gc.freeze()
        gc.disable()
        while self._listener is not None or self._children:
            remaining = None
            if self._listener is not None and not self._children:
                remaining = max(0.0, self._last + self._idle_seconds - time.monotonic()) * 1000
            events = self._poll.poll(remaining)
            if not events:
                break
            for ready, _ in events:
                self._attend(ready)
            if self._is_ended:
                break
        self._retire()

    def _attend(self, ready: int) -> None:
        if ready == self._signals:
            self._take_signals()
        elif ready == self._neighbour:
            self._watch_neighbour()
        elif self._listener is not None and ready == self._listener.fileno():
            try:
                self._await_request(self._listener.accept()[0])
            except (BlockingIOError, ConnectionAbortedError):
                pass  # the client has gone
            except OSError:
                # Without descriptors or memory it would be woken for ever.
                self._retire()
        elif ready in self._waiting:
            self._poll.unregister(ready)
            connection = self._waiting.pop(ready)
            try:
                self._answer(connection)
            except (OSError, LookupError, ValueError, server_peer.Unequal):
                pass  # the client starts a daemon itself
            finally:
                connection.close()

    def _watch_neighbour(self) -> None:
        """Watch another process of this mount namespace. Without one, end with the daemons: only they need it."""
        if self._neighbour >= 0:
            self._poll.unregister(self._neighbour)
            os.close(self._neighbour)
        self._neighbour = server_peer.neighbour({os.getpid(), *self._children})
        if self._neighbour >= 0:
            self._poll.register(self._neighbour, select.POLLIN)
        else:
            self._idle_seconds = 0

    def _listen(self, listener: socket.socket) -> socket.socket:
        listener.setblocking(False)
        listener.listen(MOST_WAITING)  # SO_PEERCRED names this process from now on (unix(7))
        path = f"/proc/self/fd/{self._directory}"
        os.rename(f"{path}/{LOADING}", f"{path}/{SOCKET}")
        self._poll.register(listener, select.POLLIN)
        return listener

    def _await_request(self, connection: socket.socket) -> None:
        if len(self._waiting) >= MOST_WAITING:
            connection.close()
            return
        connection.setblocking(False)
        self._waiting[connection.fileno()] = connection
        self._poll.register(connection, select.POLLIN)

    def _take_signals(self) -> None:
        taken: set[int] = set()
        with suppress(BlockingIOError):
            while info := os.read(self._signals, _SIGNALFD_INFO_BYTES):
                taken.add(int.from_bytes(info[:4], sys.byteorder))
        if taken - {signal.SIGCHLD}:
            self._is_ended = True
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                self._children.discard(pid)
                self._last = time.monotonic()
                if os.waitstatus_to_exitcode(status) in (_STALE, _LESSER):
                    self._retire()

    def _answer(self, connection: socket.socket) -> None:
        client = server_peer.Peer(connection)
        try:
            if client.uid != os.geteuid():
                raise server_peer.Unequal("user")
            message, descriptors = channel.receive(connection)
            channel.close_all(descriptors)
            verb, *fields = message.split(b"\0")
            if verb == START:
                self._start(connection, client, fields)
            elif verb == STATUS:
                numbers = (os.getpid(), self._served, len(self._children))
                fields = [*(b"%d" % number for number in numbers), self._identity]
                channel.send(connection, b"\0".join((STATUS, *fields)))
            elif verb == STOP:
                self._retire()
                alive = b"%d" % len(self._children)
                channel.send(connection, b"\0".join((STOP, b"%d" % os.getpid(), alive)))
        finally:
            client.close()

    def _start(
        self, connection: socket.socket, client: server_peer.Peer, fields: list[bytes]
    ) -> None:
        kind, identity, encoded_as, *variables = fields
        try:
            client.require_equal(self._traits)
        except (OSError, server_peer.Unequal) as error:
            _refuse(connection, f"unequal: {error}")
            return
        if identity != self._identity:
            self._retire()
            _refuse(connection, "outdated")
            return
        environment = dict(_split(variable) for variable in variables)
        prepare = self._prepare[kind.decode()]
        if encoded_as != self._encoding or _fixed(environment) != self._variables:
            _refuse(connection, "environment")
            return
        self._served += 1
        self._last = time.monotonic()
        shared = self._image_for_child()
        child = os.fork()
        if child == 0:
            self._become_daemon(connection, client, environment, prepare, shared)
        if shared.publishes:
            self._publisher = child
        self._children.add(child)

    def _become_daemon(
        self,
        connection: socket.socket,
        client: server_peer.Peer,
        environment: dict[bytes, bytes],
        prepare: Callable[[], None],
        shared: Image,
    ) -> NoReturn:
        status = 1
        try:
            os.setsid()
            self._leave_server(connection)
            if self._code.has_changed():
                _refuse(connection, "outdated")
                os._exit(_STALE)
            try:
                server_peer.adopt(client)
            except server_peer.Unequal as error:
                _refuse(connection, f"unequal: {error}")
                os._exit(0)
            except (OSError, ValueError) as error:
                _refuse(connection, f"limits: {error}")
                os._exit(_LESSER)
            parent = _announce(connection, client)
            if parent is None:
                os._exit(0)
            client.close()
            _replace_environment(environment)
            gc.enable()
            try:
                prepare()
            except OSError as error:
                report_refusal(parent, error)
            else:
                daemon_process.serve(parent, shared)
            status = 0
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _image_for_child(self) -> Image:
        """The image for the next child, which publishes it unless another one has or will."""
        if self._publisher in self._children or image.is_complete(self._image):
            return Image(self._image, publishes=False)
        if not image.is_empty(self._image):
            image.replace(self._image)
        return Image(self._image, publishes=True)

    def _leave_server(self, connection: socket.socket) -> None:
        """Close what belongs to the server, and take its signal mask back."""
        os.close(self._signals)
        os.close(self._directory)
        if self._neighbour >= 0:
            os.close(self._neighbour)
        if self._listener is not None:
            self._listener.close()
        for other in self._waiting.values():
            other.close()
        connection.setblocking(True)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _retire(self) -> None:
        """Serve no new request. The daemons go on. Another server may start."""
        if self._listener is None:
            return
        self._poll.unregister(self._listener)
        self._listener.close()
        self._listener = None
        path = f"/proc/self/fd/{self._directory}"
        with suppress(OSError):
            os.unlink(f"{path}/{SOCKET}")
            os.rmdir(os.readlink(path))
        # The lock on it ends.
        os.close(self._directory)
        for connection in self._waiting.values():
            self._poll.unregister(connection)
            connection.close()
        self._waiting.clear()


def _announce(connection: socket.socket, client: server_peer.Peer) -> socket.socket | None:
    """Tell the client that its daemon is there, and wait for the channel; None if the client has gone."""
    own = os.pidfd_open(os.getpid())
    try:
        channel.send(connection, READY + b"\0%d" % os.getpid(), [own])
    finally:
        os.close(own)
    message, descriptors = channel.receive(connection)
    if message != GO or len(descriptors) != 2:
        return None
    connection.close()
    parent, standard_error = descriptors
    os.dup2(standard_error, 2)
    os.close(standard_error)
    return socket.socket(fileno=parent)


def _refuse(connection: socket.socket, reason: str) -> None:
    channel.send(connection, REFUSED + b"\0" + reason.encode("utf-8", "surrogateescape"))


def _split(variable: bytes) -> tuple[bytes, bytes]:
    name, _, value = variable.partition(b"=")
    return name, value


def _replace_environment(wanted: dict[bytes, bytes]) -> None:
    for name in [name for name in os.environb if name not in wanted]:
        with suppress(OSError):  # execve(2) takes names that unsetenv(3) does not
            del os.environb[name]
    for name, value in wanted.items():
        if name and os.environb.get(name) != value:
            os.environb[name] = value
    time.tzset()


def _fixed(environment: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_FIXED_VARIABLES) and name not in _HARMLESS_VARIABLES
    }
