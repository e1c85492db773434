"""`overlaykit exec`: commands in a view that is running."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from overlaykit.procfs import children
from overlaykit.views.members import init_of

from ..views.fixtures import in_matrix, with_both_drivers
from ..views.user import TestUser

pytestmark = with_both_drivers


@contextmanager
def running_view(
    user: TestUser, *options: str, script: str = "read line"
) -> Iterator[subprocess.Popen[str]]:
    """A view `v` that runs until the end of the block, or until its command reads a line."""
    with user.start(
        "run", "--rm", "--name", "v", *options, "--", "sh", "-c", f"echo on; {script}"
    ) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "on\n"
        try:
            yield view
        finally:
            view.communicate("end\n")


@in_matrix
def test_a_command_shares_everything_with_the_view_that_it_joins(user: TestUser) -> None:
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    show = "cat /tmp/in-written; hostname; readlink " + " ".join(
        f"/proc/self/ns/{k}" for k in kinds
    )
    script = f"echo theirs > /tmp/in-written; ({show}) > /tmp/in-shown; echo done; read line"
    with running_view(user, script=script) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "done\n"
        assert user.succeeds("exec", "v", "--", "sh", "-c", show) == user.succeeds(
            "exec", "v", "cat", "/tmp/in-shown"
        )
        assert user.succeeds("exec", "v", "sh", "-c", "ps -o pid= -p 1").split() == ["1"]


def test_a_view_is_joined_whose_supervisor_was_slow(user: TestUser) -> None:
    """It takes what init has sent for joining commands before it closes what it does not need."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, bytes(select.PIPE_BUF)):
            pass
    os.set_blocking(writer, True)
    options = ("--rm", "--name", "v", "-it", "--json-status-fd", str(writer))
    command = ("--", "sh", "-c", "echo on; read line")
    with user.start("run", *options, *command, pass_fds=(writer,)) as view:
        os.close(writer)
        # The supervisor waits for room in the pipe, and the command for the supervisor.
        while not ((init := init_of(view.pid)) and children(init)):
            os.sched_yield()
        os.set_blocking(reader, False)
        with suppress(BlockingIOError):
            while os.read(reader, 1 << 20):
                pass
        assert view.stdout is not None
        assert view.stdout.readline() == "on\n"
        user.succeeds("exec", "v", "true")
        view.communicate("end\n")
    os.close(reader)


def test_what_a_command_writes_is_there_for_the_next_and_in_the_upper(user: TestUser) -> None:
    upper = user.path("upper")
    with running_view(user, "--upper", upper):
        user.succeeds("exec", "v", "sh", "-c", "echo one > /tmp/in-f")
        user.succeeds("exec", "v", "sh", "-c", "echo two >> /tmp/in-f")
        assert user.succeeds("exec", "v", "cat", "/tmp/in-f") == "one\ntwo\n"
    with open(os.path.join(upper, "tmp", "in-f")) as file:
        assert file.read() == "one\ntwo\n"


@pytest.mark.parametrize(("script", "status"), [("exit 42", 42), ("kill -TERM $$", 143)])
def test_the_exit_status_is_the_commands(user: TestUser, script: str, status: int) -> None:
    with running_view(user):
        done = user.overlaykit("exec", "v", "sh", "-c", script)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_the_command_has_its_callers_environment_and_directory(user: TestUser) -> None:
    directory = user.directory("here")
    with running_view(user, "-v", f"{directory}:{directory}"):
        printed = user.succeeds(
            "exec",
            "-e",
            "ONE=1",
            "v",
            "sh",
            "-c",
            'echo "$ONE $TWO $PWD"',
            cwd=directory,
            env={**os.environ, "TWO": "2"},
        )
        assert printed == f"1 2 {directory}\n"
        assert user.succeeds("exec", "-w", "/usr", "v", "pwd") == "/usr\n"


def test_the_command_has_no_more_capabilities_than_those_of_run(user: TestUser) -> None:
    show = ("sh", "-c", "grep -E '^(Cap|NoNewPrivs|Seccomp)' /proc/self/status")
    with running_view(user):
        assert user.succeeds("exec", "v", *show) == user.succeeds("run", *show)


def test_the_host_and_its_processes_stay_out_of_sight(user: TestUser) -> None:
    with running_view(user):
        listed = user.succeeds("exec", "v", "ps", "-e", "-o", "pid=").split()
        assert len(listed) <= 6
        refused = user.overlaykit("exec", "v", "sh", "-c", f"kill -0 {os.getpid()}")
        assert "No such process" in refused.stderr


def test_the_program_of_the_host_cannot_be_opened_while_a_command_joins(user: TestUser) -> None:
    """As by /proc/PID/exe in CVE-2019-5736."""
    script = (
        "import glob, os\n"
        "print('watching', flush=True)\n"
        "opened = []\n"
        "while not os.path.exists('/tmp/in-stop'):\n"
        "    for path in glob.glob('/proc/[0-9]*/exe'):\n"
        "        try:\n"
        "            target = os.readlink(path)\n"
        "        except OSError:\n"
        "            continue\n"
        "        if '_supervisor' in target:\n"
        "            opened.append(path)\n"
        "print(opened)\n"
    )
    with user.start("run", "--rm", "--name", "v", "--", "/usr/bin/python3", "-c", script) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "watching\n"
        for _ in range(20):
            user.succeeds("exec", "v", "true")
        user.overlaykit("exec", "v", "touch", "/tmp/in-stop")  # which the view's end may kill
        assert view.communicate()[0] == "[]\n"


@in_matrix
def test_the_end_of_the_view_ends_its_commands(user: TestUser) -> None:
    with running_view(user) as view:
        joined = user.start("exec", "v", "--", "sh", "-c", "echo joined; exec sleep 1000")
        assert joined.stdout is not None
        assert joined.stdout.readline() == "joined\n"
        view.send_signal(signal.SIGTERM)
        assert view.wait() == 128 + signal.SIGTERM
    with joined:
        assert joined.wait() == 128 + signal.SIGKILL


def test_a_signal_reaches_the_command_and_not_the_view(user: TestUser) -> None:
    with running_view(user):
        script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do read line; done"
        with user.start("exec", "v", "--", "sh", "-c", script) as joined:
            assert joined.stdout is not None
            assert joined.stdout.readline() == "ready\n"
            joined.send_signal(signal.SIGTERM)
            joined.stdin.close()  # type: ignore[union-attr]
            assert joined.stdout.read() == "caught\n"
            assert joined.wait() == 5
        user.succeeds("exec", "v", "true")


def test_a_killed_command_leaves_the_view_running(user: TestUser) -> None:
    with running_view(user):
        with user.start("exec", "v", "--", "sh", "-c", "echo ready; exec sleep 1000") as joined:
            assert joined.stdout is not None
            assert joined.stdout.readline() == "ready\n"
            joined.kill()
            assert joined.wait() == -signal.SIGKILL
        # The process in the view, an orphan now. Its PID namespace ends once it is reaped.
        os.waitpid(-1, 0)
        user.succeeds("exec", "v", "pkill", "sleep")


def test_what_cannot_be_joined_is_named(user: TestUser) -> None:
    assert user.refused("exec", "v", "true").startswith("v: no view or mount of that name")
    assert user.refused("exec", "v") == "exec: no command given: see 'overlaykit exec --help'"
    assert user.refused("exec") == "exec: no view given: see 'overlaykit exec --help'"
    lower, target = user.directory("lower"), user.directory("target")
    user.succeeds("mount", "-o", f"lowerdir={lower}", "--name", "m", target)
    for said in (("exec", "m", "true"), ("top", "m"), ("stats", "--no-stream", "m")):
        assert user.refused(*said).startswith("m: a mount, in which no command runs"), said
    user.succeeds("umount", target)
    with running_view(user):
        assert user.refused("exec", "v", "nope", status=127).startswith("nope: no such command")
        assert user.refused("exec", "-w", "/nope", "v", "true").startswith("-w /nope: no directory")
        assert user.refused("exec", "-w", "nope", "v", "true").startswith("-w nope: write an abs")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["00000000800425fb", "1", "2"]),
        (("--cap-drop=ALL",), ["0000000000000000", "1", "2"]),
        (("--security-opt=seccomp=unconfined",), ["00000000800425fb", "1", "0"]),
        (
            ("--security-opt=no-new-privileges=false", "--cap-drop=NET_RAW"),
            ["00000000800405fb", "0", "2"],
        ),
    ],
)
def test_a_command_that_joins_is_confined_as_the_view(
    user: TestUser, options: tuple[str, ...], expected: list[str]
) -> None:
    fields = "grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | cut -f 2"
    with running_view(user, *options):
        assert user.succeeds("exec", "v", "--", "sh", "-c", fields).split() == expected
