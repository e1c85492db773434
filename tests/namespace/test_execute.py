"""A launcher that becomes the supervisor of its view: status, signals, failures, and what it cleans up."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from overlaykit import namespace, signals
from overlaykit.namespace.launcher import SUPERVISOR
from overlaykit.procfs import children, descendants

from .harness import LaunchHarness, line, read_to_end
from .processes import command_line

WAITS = ("sh", "-c", "echo started; sleep 1000 & wait")
REFUSED, INTERRUPTED = 98, 97
"""Statuses of a launcher in which `execute` has raised."""


class Launcher:
    """A process that calls `namespace.execute`."""

    def __init__(
        self,
        harness: LaunchHarness,
        *argv: str,
        first: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        """Call `first` before it, while signals are held."""
        names = {"abort_on", "hold", "end", "before_exec"}.intersection(options)
        given = {"end": namespace.End()} | {name: options.pop(name) for name in names}
        root = harness.root()
        self._stderr, errors = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = REFUSED
            try:
                os.dup2(errors, 2)
                with signals.held():
                    first()
                    namespace.execute(
                        harness.spec(*argv, **options),
                        namespace.RootMount(mount=root, user_namespace=harness.user_namespace),
                        report=("overlaykit.cli.failed", "a-view", "lasting"),
                        **given,
                    )
            except KeyboardInterrupt:
                status = INTERRUPTED
            finally:
                os._exit(status)
        os.close(errors)

    def wait(self) -> int:
        """The exit status; minus N where signal N ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def errors(self) -> str:
        """What it printed, until its end."""
        text = read_to_end(self._stderr).decode()
        os.close(self._stderr)
        return text


@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("kill -TERM $$", 143), ("echo a >&2", 0)]
)
def test_the_launcher_ends_as_its_command(harness: LaunchHarness, script: str, status: int) -> None:
    launcher = Launcher(harness, "sh", "-c", script)
    assert launcher.errors() == ("a\n" if status == 0 else "")
    assert launcher.wait() == status


def test_the_launcher_is_the_supervisor_and_no_python_process_is_left(
    harness: LaunchHarness,
) -> None:
    with harness.piped() as printed:
        launcher = Launcher(harness, *WAITS)
        assert line(printed) == b"started\n"
        (init,) = children(launcher.pid)
        for process in (launcher.pid, init):
            assert command_line(process)[0] == SUPERVISOR
        os.kill(launcher.pid, signal.SIGTERM)
        assert launcher.wait() == 143


@pytest.mark.parametrize("victim", ["supervisor", "init"])
def test_when_one_is_killed_all_end(harness: LaunchHarness, victim: str) -> None:
    with harness.piped() as printed:
        launcher = Launcher(harness, *WAITS)
        assert line(printed) == b"started\n"
        everything = [os.pidfd_open(process) for process in descendants(launcher.pid)]
        os.kill(launcher.pid if victim == "supervisor" else children(launcher.pid)[0], 9)
        for process in everything:
            select.select([process], [], [])
            os.close(process)
        assert launcher.wait() == (-9 if victim == "supervisor" else 137)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def test_a_missing_command_is_named_as_by_launch(harness: LaunchHarness) -> None:
    launcher = Launcher(harness, "no-such-thing")
    assert launcher.errors() == f"overlaykit: {namespace.CommandNotFound('no-such-thing')}\n"
    assert launcher.wait() == 127


def test_a_step_that_fails_is_named_as_by_launch(harness: LaunchHarness) -> None:
    binds = (namespace.Bind(source="/no/such\nsource", target="/mnt"),)
    launcher = Launcher(harness, "true", binds=binds)
    refused = namespace.BindSourceMissing("/no/such\\nsource", os.strerror(2))
    assert launcher.errors() == f"overlaykit: {refused}\n"
    assert launcher.wait() == 125


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ECONNABORTED])
def test_an_error_of_a_mount_without_its_daemon_names_the_daemon(number: int) -> None:
    from overlaykit.cli.failed import fail
    from overlaykit.views.view import DaemonEnded

    with pytest.raises(DaemonEnded):
        fail("a-view", "ROOT", number, "", created=None)


def test_a_port_in_use_is_refused_while_python_still_runs(harness: LaunchHarness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = (namespace.Port(host=taken.getsockname()[1], view=80),)
        launcher = Launcher(harness, "true", ports=ports)
        launcher.errors()
        assert launcher.wait() == REFUSED


def test_published_ports_are_known_before_the_launcher_is_replaced(harness: LaunchHarness) -> None:
    server = (
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 80)) as server:\n"
        "    print('started', flush=True)\n"
        "    with server.accept()[0] as client: client.sendall(b'hello')\n"
    )
    reader, writer = os.pipe()

    def tell(ports: tuple[namespace.Port, ...]) -> None:
        os.write(writer, f"{ports[0].host}\n".encode())

    with harness.piped() as printed:
        ports = (namespace.Port(host=0, view=80),)
        launcher = Launcher(harness, "python3", "-c", server, ports=ports, before_exec=tell)
        port = int(line(reader))
        assert line(printed) == b"started\n"
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert client.recv(16, socket.MSG_WAITALL) == b"hello"
        assert launcher.wait() == 0
    for descriptor in (reader, writer):
        os.close(descriptor)


@pytest.mark.parametrize("number", sorted(signals.FORWARDED - {signal.SIGCONT}))
def test_a_signal_for_the_launcher_reaches_the_command(harness: LaunchHarness, number: int) -> None:
    script = f"trap 'echo got; exit 9' {number}; echo started; while :; do sleep 1000 & wait; done"
    with harness.piped() as printed:
        launcher = Launcher(harness, "sh", "-c", script)
        assert line(printed) == b"started\n"
        os.kill(launcher.pid, number)
        assert line(printed) == b"got\n"
        assert launcher.wait() == 9


def test_an_interrupt_before_the_launcher_is_replaced_is_an_exception(
    harness: LaunchHarness,
) -> None:
    launcher = Launcher(
        harness,
        *WAITS,
        first=lambda: os.kill(os.getpid(), signal.SIGINT),
        before_exec=lambda _: os._exit(0),
    )
    assert launcher.errors() == ""
    assert launcher.wait() == INTERRUPTED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_launcher_is_replaced_ends_the_view_and_cleans_up(
    harness: LaunchHarness, number: int
) -> None:
    os.makedirs(f"{harness.scratch}/entry/tree")
    directory = os.open(harness.scratch, os.O_RDONLY)
    launcher = Launcher(
        harness,
        *WAITS,
        end=namespace.End(remove=((directory, "entry"),)),
        before_exec=lambda _: os.kill(os.getpid(), number),
    )
    assert launcher.errors() == ""
    assert launcher.wait() in (-number, 128 + number)
    assert os.listdir(directory) == []
    os.close(directory)


def test_the_view_ends_when_its_daemon_does(harness: LaunchHarness) -> None:
    daemon, held = os.pipe()
    with harness.piped() as printed:
        launcher = Launcher(harness, *WAITS, abort_on=(daemon,))
        assert line(printed) == b"started\n"
        os.close(held)
        assert launcher.errors().startswith("overlaykit: the daemon of view a-view ended before")
        assert launcher.wait() == 125
    os.close(daemon)


@pytest.mark.parametrize("complete", [True, False])
def test_the_launcher_waits_until_its_changes_are_in_the_upper(
    harness: LaunchHarness, complete: bool
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ended, lock = os.pipe()
    with harness.piped() as printed, ours, theirs:
        launcher = Launcher(
            harness,
            *("sh", "-c", "echo started; exec sleep 1000 >&-"),
            hold=(lock,),
            end=namespace.End(written=theirs.fileno()),
        )
        assert line(printed) == b"started\n"
        os.close(lock)
        theirs.close()
        harness.stop_writing()
        # The command has closed its standard output, so no other process holds it.
        assert os.read(printed, 1) == b""
        (init,) = children(launcher.pid)
        view = os.pidfd_open(init)
        os.kill(launcher.pid, signal.SIGTERM)
        select.select([view], [], [])
        os.close(view)
        assert select.select([ended], [], [], 0)[0] == []
        if complete:
            ours.send(b"w")
        ours.close()
        assert launcher.errors() == ("" if complete else errors_of_a_daemon())
        assert launcher.wait() == (143 if complete else 125)
        assert os.read(ended, 1) == b""
    os.close(ended)


def errors_of_a_daemon() -> str:
    from overlaykit.fuse.daemon import describe_log
    from overlaykit.views import places
    from overlaykit.views.view import DaemonEnded

    return f"overlaykit: {DaemonEnded('a-view', describe_log(places.log()))}\n"


@pytest.mark.parametrize("command", ["true", "no-such-thing"])
def test_what_the_view_leaves_is_removed_at_its_end(harness: LaunchHarness, command: str) -> None:
    for name in ("entry/scratch/deep", "empty", "full/other"):
        os.makedirs(f"{harness.scratch}/{name}")
    os.symlink("/etc", f"{harness.scratch}/entry/scratch/link")
    directory = os.open(harness.scratch, os.O_RDONLY)
    launcher = Launcher(
        harness,
        command,
        end=namespace.End(
            remove=((directory, "entry"), (directory, "gone")),
            remove_if_empty=((directory, "empty"), (directory, "full"), (directory, "gone")),
        ),
    )
    launcher.errors()
    assert launcher.wait() == (0 if command == "true" else 127)
    assert os.listdir(directory) == ["full"]
    assert os.path.exists("/etc/passwd")
    os.close(directory)
