"""`overlaykit.Client`: what a running view or mount says of itself, to a program and to the commands."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest

import overlaykit
from overlaykit.client import NoDaemon, NoSuchPath, NothingWritten
from overlaykit.views.registry import DaemonSilent, NotRunning, Registry

from ..fuse.restarts import end_daemon
from ..views.fixtures import only_as, only_with
from ..views.serving import kept_mount
from ..views.test_driver import USR, system
from ..views.user import AS_ORDINARY, TestUser

pytestmark = only_with(driver="fuse", server=False)


@contextlib.contextmanager
def mounted(user: TestUser, *, writable: bool = True) -> Iterator[str]:
    lower = user.directory("lower", changed="1\n", gone="2\n")
    target = user.directory("target")
    options = f"lowerdir={lower}"
    if writable:
        upper, work = user.directory("upper"), user.directory("work")
        options += f",upperdir={upper},workdir={work}"
    user.succeeds("mount", "--name", "m", "-o", options, target)
    try:
        yield target
    finally:
        user.succeeds("umount", target)


def test_a_client_says_what_a_mount_shows_changes_and_answers(user: TestUser) -> None:
    with mounted(user) as target, overlaykit.Client("m") as client:
        # Still in the kernel's cache.
        user.write(os.path.join(target, "changed"), "new\n")
        os.unlink(os.path.join(target, "gone"))
        paths = [hit.path for hit in client.explain("/changed").hits]
        assert paths == [user.path("upper", "changed"), user.path("lower", "changed")]
        assert [(one["kind"], one["path"]) for one in client.diff()] == [
            ("changed", "/changed"),
            ("deleted", "/gone"),
        ]
        assert [one["kind"] for one in client.diff("gone")] == ["deleted"]
        with pytest.raises(NoSuchPath):
            client.diff("/missing")
        with pytest.raises(FileNotFoundError):
            client.explain("/missing")
        stats = client.stats()
        assert stats.held["nodes"] > 1
        assert sum(one.count for one in stats.python.values()) > 0
    with pytest.raises(NotRunning):
        overlaykit.Client("m")


def test_nothing_is_written_in_a_mount_without_an_upper(user: TestUser) -> None:
    with mounted(user, writable=False) as target, overlaykit.Client(target) as client:
        with pytest.raises(NothingWritten):
            client.diff()
        assert client.explain("/gone").hits


def test_a_client_goes_on_after_a_restart_of_the_daemon_and_not_after_the_end(
    user: TestUser,
) -> None:
    user.expects_log = True
    with mounted(user) as target:
        client = overlaykit.Client(target)
        for _ in range(2):
            assert client.explain("/gone").hits
            end_daemon(kept_mount(target).daemon, signal.SIGKILL)
            assert os.listdir(target)
    with client, pytest.raises(NotRunning):
        client.explain("/gone")


def test_a_client_waits_no_longer_than_it_was_told_to(user: TestUser) -> None:
    with mounted(user) as target:
        daemon = kept_mount(target).daemon
        with overlaykit.Client(target, seconds=0.01) as client:
            os.kill(daemon, signal.SIGSTOP)
            try:
                with pytest.raises(DaemonSilent):
                    client.stats()
            finally:
                os.kill(daemon, signal.SIGCONT)
        with overlaykit.Client(target) as client:
            assert client.stats()


@only_as("root")
def test_the_mode_of_the_socket_says_who_may_ask(user: TestUser) -> None:
    program = (
        "import socket\n"
        "try: socket.socket(socket.AF_UNIX).connect('control')\n"
        "except PermissionError: print('refused')\n"
        "else: print('let in')"
    )
    with mounted(user):
        directory, name = os.path.split(Registry().find("m").control)
        os.chmod(directory, 0o755)

        def asked() -> str:
            done = subprocess.run(
                (*AS_ORDINARY, "/usr/bin/python3", "-c", program),
                cwd=directory,
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout.strip()

        assert stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) == 0o600
        assert asked() == "refused"
        os.chmod(os.path.join(directory, name), 0o666)
        assert asked() == "let in"


def test_without_a_daemon_the_layers_are_read(user: TestUser) -> None:
    script = "echo changed >/file; echo started; read line"
    options = ("--driver", "kernel", "-l", system(user), "-v", USR, "--upper", user.path("upper"))
    with user.start("run", "--name", "one", *options, "--", "sh", "-c", script) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "started\n"
        with overlaykit.Client("one") as client:
            assert client.explain("/file").hits[0].path == user.path("upper", "file")
            assert "/file" in [one["path"] for one in client.diff()]
            with pytest.raises(NoDaemon):
                client.stats()
        view.communicate("end\n")
    user.succeeds("rm", "one")


def test_the_import_of_the_package_loads_neither_views_nor_the_client() -> None:
    program = "import sys, overlaykit; print(sorted(n for n in sys.modules if n.startswith('overlaykit')))"
    done = subprocess.run(
        (sys.executable, "-c", program), capture_output=True, text=True, check=True
    )
    assert done.stdout == "['overlaykit']\n"
