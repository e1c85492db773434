"""The fork server in a test: switched on, looked at, and ended with the test."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator

from overlaykit.fuse import server_client
from overlaykit.procfs import children
from overlaykit.views import Registry, places, server
from overlaykit.views.entry import About
from overlaykit.views.registry import NotRunning

from ..posix import syscalls
from .user import TestUser, command


@contextlib.contextmanager
def switched_on(seconds: str = "1000") -> Iterator[None]:
    """Views in the block use the server; it is killed at the end, with all that it has started."""
    before = os.environ[server.VARIABLE]
    os.environ[server.VARIABLE] = seconds
    try:
        yield
    finally:
        os.environ[server.VARIABLE] = before
        found = server.stop()
        if found is not None and found.alive:
            wait_for_end(found.pid)


def running() -> server.Status:
    """The server, which runs."""
    found = server.status()
    assert found is not None
    return found


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended."""
    with contextlib.suppress(ProcessLookupError):
        ended = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            poll.poll()
        finally:
            os.close(ended)


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return int(stat.read().rpartition(b")")[2].split()[1])


def daemon_of(name: str) -> int:
    """The daemon of a view whose command runs; waits until it is registered."""
    while True:
        with contextlib.suppress(NotRunning):
            return Registry().find(name).about.daemon


def kept_mount(target: str) -> About:
    """A mount with a keeper. Waits for its next daemon, if one was killed."""
    while not (about := Registry().find(target).about).keeper:
        pass
    return about


@contextlib.contextmanager
def view(user: TestUser, name: str, *prefix: str, **options: object) -> Iterator[int]:
    """A view that runs while the block does, started by `prefix` and the command line. Yields: its daemon."""
    line = [
        *prefix,
        command(),
        "run",
        "--rm",
        "--name",
        name,
        "--",
        "sh",
        "-c",
        "echo on; read line",
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, **options}
    with subprocess.Popen(line, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "on\n"
            yield daemon_of(name)
            process.stdin.write("\n")
            process.stdin.close()
            assert process.wait() == 0
        finally:
            process.kill()


def kill_server(number: int = signal.SIGKILL) -> int:
    """Send a signal to the server. Returns: its pid."""
    pid = running().pid
    os.kill(pid, number)
    return pid


def directory() -> str:
    """The directory of the server's socket."""
    return os.path.join(places.runtime(), ".server")


@contextlib.contextmanager
def connected() -> Iterator[socket.socket]:
    """A connection to the server."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(os.path.join(directory(), "socket"))
        yield connection


def wait_for_daemons() -> None:
    """Wait until the server's daemons have ended and it knows."""
    for child in children(running().pid):
        wait_for_end(child)
    while running().alive:
        pass


def footprint(pid: int) -> dict[str, object]:
    """What the server holds, once its daemons have ended."""
    wait_for_daemons()
    return {"descriptors": descriptors(pid), "children": children(pid)}


def memory(pid: int) -> int:
    """The memory of a process that is no file's, in KiB. Counted page by page: "status" is inexact (proc(5))."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        next(rollup)
        fields = dict(line.split(":", 1) for line in rollup)
    return int(fields["Anonymous"].split()[0])


def start_loaded(user: TestUser) -> int:
    """Start the server and wait until it serves: on a slow machine the view that starts it does without it.

    Its memory has no huge pages: where they are usual, the kernel fills them up at moments of its own.
    Returns: its pid.
    """
    syscalls.prctl(syscalls.PR_SET_THP_DISABLE, 1)  # inherited
    user.succeeds("run", "--", "true")
    while server.status() is None:
        pass
    wait_for_daemons()
    return running().pid


def descriptors(pid: int) -> list[str]:
    """The server's descriptors while no client is connected."""
    with connected() as connection:
        connection.send(server_client.STATUS)
        assert connection.recv(1000)
        assert connection.recv(1) == b""
    return sorted(os.listdir(f"/proc/{pid}/fd"))
