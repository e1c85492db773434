"""The fork server of this user: ask it for a daemon, start it, ask for its status, and stop it.

It lies in `.server` in the registry, a directory that is locked as long as it runs. `server_main` is its program.
"""

from __future__ import annotations

import errno
import fcntl
import os

from overlaykit import signals, sockets
from overlaykit.errors import Error
from overlaykit.fuse import channel, server_client
from overlaykit.fuse.cleanup import SERVER, lock_directory
from overlaykit.fuse.daemon_start import execute
from overlaykit.record import Record
from overlaykit.scope import suppress
from overlaykit.views import places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

VARIABLE: Final = "OVERLAYKIT_SERVER"
IDLE_SECONDS: Final = 300.0

USER: Final = "user"
MOUNTS: Final = "mounts"
"""The kinds of namespaces that a daemon enters: a user and a mount namespace, or the latter alone."""


class SettingInvalid(Error):
    message = (
        f"{VARIABLE}={{0}}: give 'off', or the seconds for which the server stays without a view"
    )


class ServerSilent(Error):
    message = "the server does not answer ({0}): views start without it; end it with 'kill {1}'"


class Status(Record, kw_only=True):
    """A running server. `served`: daemons started since its start; `alive`: those that run."""

    pid: int
    served: int
    alive: int
    version: str
    interpreter: str
    memory: int
    """Its proportional share of memory (PSS), in bytes; daemons share most of its pages."""


class Stopped(Record, kw_only=True):
    """A server that was stopped. `alive`: its daemons, with the last of which it ends."""

    pid: int
    alive: int


def warm_daemon(kind: str) -> server_client.Starting | None:
    """Ask the server for a daemon in namespaces of the `kind`; start the server if there is none.

    Returns: None if the start has to be cold. Raises: SettingInvalid.
    """
    seconds = idle_seconds()
    if seconds is None:
        return None
    with suppress(OSError, Error):
        directory = os.path.join(places.runtime(), SERVER)
        connection = server_client.connect(directory)
        if connection is not None:
            return server_client.start(connection, kind, server_client.ANSWERS_WITHIN_SECONDS)
        _start(directory, seconds)
        for name, within in (
            (server_client.LOADING, server_client.LOADS_WITHIN_SECONDS),
            (server_client.SOCKET, server_client.ANSWERS_WITHIN_SECONDS),
        ):
            connection = server_client.connect(directory, name)
            if connection is not None:
                return server_client.start(connection, kind, within)
    return None


def idle_seconds() -> float | None:
    """The setting of `OVERLAYKIT_SERVER`; None: no server. Raises: SettingInvalid."""
    given = os.environ.get(VARIABLE, "")
    if given == "off":
        return None
    if not given:
        return IDLE_SECONDS
    with suppress(ValueError):
        if 0 <= (seconds := float(given)) < float("inf"):
            return seconds
    raise SettingInvalid(given)


def status() -> Status | None:
    """The status of the server; None if there is none. Raises: ServerSilent, OSError."""
    fields = _ask(server_client.STATUS)
    if fields is None:
        return None
    pid, served, alive, identity = fields
    version, interpreter, *_ = os.fsdecode(identity).split("\n")
    return Status(
        pid=int(pid),
        served=int(served),
        alive=int(alive),
        version=version,
        interpreter=interpreter,
        memory=_memory(int(pid)),
    )


def stop() -> Stopped | None:
    """Stop the server: it serves no new request. Waits for its end, unless daemons of its are alive.

    Returns: None if there is none. Raises: ServerSilent, OSError.
    """
    fields = _ask(server_client.STOP)
    if fields is None:
        return None
    pid, alive = map(int, fields)
    if not alive:
        with suppress(ProcessLookupError):
            from overlaykit.fuse import unmount

            ended = os.pidfd_open(pid)
            try:
                unmount.readable_within(ended, server_client.LOADS_WITHIN_SECONDS)
            finally:
                os.close(ended)
    return Stopped(pid=pid, alive=alive)


def _ask(verb: bytes) -> list[bytes] | None:
    connection = server_client.connect(os.path.join(places.runtime(), SERVER))
    if connection is None:
        return None
    pid, _, _ = server_client.peer(connection)
    try:
        return server_client.ask(connection, verb)
    except TimeoutError as error:
        raise ServerSilent(error.strerror, pid) from None
    except ConnectionResetError:
        return None


def _memory(pid: int) -> int:
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb", buffering=0) as file:
        for line in file.readall().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) << 10
    return 0


def _start(directory: str, seconds: float) -> None:
    """Start a server, unless another process does, or it would not serve this process. Raises: OSError."""
    if not _may_be_served():
        return
    # Of several first views, one starts the server, and the others find its socket.
    registry = lock_directory(places.private(os.path.dirname(directory)), fcntl.LOCK_EX)
    if registry < 0:
        return
    try:
        lock = _lock(directory)
        if lock < 0:
            return
        listener = _listen(lock)
    finally:
        os.close(registry)
    try:
        with signals.all_blocked():
            child = os.fork()
            if child == 0:
                _become_server(lock, listener, seconds)
            with suppress(ChildProcessError):  # this program reaps every child
                os.waitpid(child, 0)
    finally:
        listener.close()
        os.close(lock)


def _listen(lock: int) -> sockets.socket:
    """The socket of a server that still loads. Raises: OSError; then the lock is closed."""
    listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
    try:
        listener = channel.above_standard(listener)
        at = f"/proc/self/fd/{lock}"
        for name in (server_client.LOADING, server_client.SOCKET):
            with suppress(FileNotFoundError):
                os.unlink(f"{at}/{name}")
        path = f"{at}/{server_client.LOADING}"
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(server_client.MOST_WAITING)
    except OSError:
        listener.close()
        os.close(lock)
        raise
    return listener


def _may_be_served() -> bool:
    """Whether a server would serve this process for long.

    None serves a process that is confined (`server_peer`). The end of PID 1 kills its namespace (pid_namespaces(7)).
    """
    if os.getpid() == 1:
        return False
    with open("/proc/self/status", "rb", buffering=0) as status:
        lines = status.readall().splitlines()
    return not {b"Seccomp:\t1", b"Seccomp:\t2", b"NoNewPrivs:\t1"}.intersection(lines)


def _lock(directory: str) -> int:
    """Lock the directory of the server; -1 if another process has the lock."""
    try:
        os.mkdir(directory, 0o700)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
    lock = lock_directory(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # Another process may have removed it, as the entry of a view that has ended.
    if lock >= 0 and not _is_open_at(lock, directory):
        os.close(lock)
        return -1
    return lock


def _is_open_at(descriptor: int, path: str) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    return False


def _become_server(lock: int, listener: sockets.socket, seconds: float) -> NoReturn:
    """The child's side: a grandchild becomes the server, which this process need not reap."""
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            os.chdir("/")
            os.environ[VARIABLE] = str(seconds)
            execute("overlaykit.views.server_main", lock, listener.fileno())
    finally:
        os._exit(0)
