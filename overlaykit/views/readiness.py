"""Wait until what runs in a view is ready: it listens on a port, has made a file, or lets a command succeed.

The kernel tells nobody of a new listener, and a file may be made on any mount of the view: both are looked for again
and again, at growing intervals. The end of the view is awaited at the same time.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from overlaykit import _native, signals
from overlaykit.errors import Error
from overlaykit.namespace.descriptors import poll_readable
from overlaykit.record import Record
from overlaykit.scope import suppress
from overlaykit.views import ending, joining, members
from overlaykit.views.registry import NotRunning, Registry

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import NoReturn

    from overlaykit.namespace.environment import Environment
    from overlaykit.views.entry import About

_SHORTEST_SECONDS: Final = 0.01
_LONGEST_SECONDS: Final = 0.5
"""Between two attempts."""

_LISTENS: Final = {"tcp": "0A", "udp": "07"}
"""The states of a socket that takes what comes, in /proc/net (include/net/tcp_states.h)."""

_INODE: Final = 9
"""The field of the socket's inode number there."""


class NotReady(Error):
    message = "{0}: not ready within {1:g} seconds: {2}: 'overlaykit logs {0}' shows what it said"


class EndedFirst(Error):
    message = "{0}: it ended before it was ready: 'overlaykit logs {0}' shows what it said"


class Ready(Record, kw_only=True):
    """What is awaited: the first of `port`, `file` and `command` that is given, for `timeout` seconds."""

    port: int | None = None
    """That something in the view's network listens on; in the host's network, a process of the view."""
    protocol: str = "tcp"
    file: str | None = None
    """A path in the view."""
    command: tuple[str, ...] = ()
    """It succeeds in the view."""
    timeout: float

    def lacking(self) -> str:
        """What is lacking as long as it is not ready."""
        if self.port is not None:
            return f"nothing listens on its port {self.port}/{self.protocol}"
        if self.file is not None:
            return f"there is no {self.file} in it"
        return f"{self.command[0]} has not succeeded in it"


def wait(name: str, ready: Ready, env: Environment) -> None:
    """Wait until the view `name` is ready. `env`: of the command.

    Requires: no other thread. Raises: NotReady, EndedFirst.
    """
    end = time.monotonic() + ready.timeout
    interval = _SHORTEST_SECONDS
    try:
        with ending.supervisor(name) as ended:
            while not _is_ready(name, ready, env, end):
                left = end - time.monotonic()
                if left <= 0:
                    raise NotReady(name, ready.timeout, ready.lacking())
                if poll_readable([ended], milliseconds=round(min(interval, left) * 1000) + 1):
                    raise EndedFirst(name)
                interval = min(interval * 1.5, _LONGEST_SECONDS)
    except NotRunning:
        raise EndedFirst(name) from None


def is_ready(name: str, ready: Ready, env: Environment, seconds: float) -> bool:
    """Whether the view `name` runs and is ready now; a command has so many seconds. Requires: no other thread."""
    try:
        return _is_ready(name, ready, env, time.monotonic() + seconds)
    except NotRunning:
        return False


def _is_ready(name: str, ready: Ready, env: Environment, end: float) -> bool:
    """Raises: NotRunning."""
    if ready.port is not None:
        return _listens(Registry().find(name).about, ready.port, ready.protocol)
    if ready.file is not None:
        return _succeeds(name, ("test", "-e", ready.file), env, end)
    return _succeeds(name, ready.command, env, end)


def _listens(about: About, port: int, protocol: str) -> bool:
    """Whether a socket of a view takes connections or datagrams (proc_pid_net(5)).

    A view in the caller's network shares it with other programs: there a process of the view has to have the socket.
    """
    wanted = f"{port:04X}"
    found = set()
    for table in (protocol, f"{protocol}6"):
        # The supervisor is in the view's network.
        with suppress(OSError), open(f"/proc/{about.supervisor}/net/{table}") as file:
            next(file)
            for line in file:
                fields = line.split()
                if fields[1].rpartition(":")[2] == wanted and fields[3] == _LISTENS[protocol]:
                    found.add(f"socket:[{fields[_INODE]}]")
    if not found:
        return False
    with suppress(OSError):
        if not os.path.samefile("/proc/self/ns/net", f"/proc/{about.supervisor}/ns/net"):
            return True
    return any(_has_open(process, found) for process in members.process_ids(about))


def _has_open(process: int, wanted: Collection[str]) -> bool:
    """Whether a process has an open file of one of these names (proc_pid_fd(5))."""
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{process}/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/{process}/fd/{descriptor}") in wanted:
                    return True
    return False


def _succeeds(name: str, command: tuple[str, ...], env: Environment, end: float) -> bool:
    """Whether a command succeeds in the view before `end`, a time of time.monotonic()."""
    canceled, cancel = os.pipe()
    with signals.held():
        child = os.fork()
        if child == 0:
            os.close(cancel)
            _judge(name, command, env, end, canceled)
    os.close(canceled)
    try:
        poll_readable([cancel])  # until the child closes the other end
    finally:
        os.close(cancel)
        status = os.waitpid(child, 0)[1]
    return status == 0


def _judge(
    name: str, command: tuple[str, ...], env: Environment, end: float, canceled: int
) -> NoReturn:
    """Run the command, and end with 0 if it succeeds before `end` and before the pipe `canceled` is closed.

    This process reaps what a killed supervisor leaves: the view could not end before. Requires: signals are held.
    """
    status = 1
    try:
        _native.prctl(_native.PR_SET_CHILD_SUBREAPER, 1)
        child = os.fork()
        if child == 0:
            os.close(canceled)
            _execute(name, command, env)
        ended = os.pidfd_open(child)
        left = max(1, round((end - time.monotonic()) * 1000))
        poll_readable([ended, canceled], milliseconds=left)
        os.kill(child, signals.signal.SIGKILL)  # which does nothing to one that has ended
        status = int(os.waitpid(child, 0)[1] != 0)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
    finally:
        os._exit(status)


def _execute(name: str, command: tuple[str, ...], env: Environment) -> NoReturn:
    """Run the command in place of this process, without streams. Requires: signals are held."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.setsid()
        joining.execute(name, command, env=env)
    finally:
        os._exit(1)
