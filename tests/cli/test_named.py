"""Named and detached views: run -d, start, stop, kill, wait, rm, rename, inspect, logs, ps -a."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from overlaykit.views.named import LARGEST_LOG, NamedView, ViewRuns

from ..views.fixtures import in_matrix, with_both_drivers
from ..views.user import TestUser, command

pytestmark = with_both_drivers


@contextmanager
def removed(user: TestUser, *names: str) -> Iterator[None]:
    """Remove the views at the end of the block."""
    try:
        yield
    finally:
        for name in names:
            user.overlaykit("rm", "-f", name)


def states(user: TestUser) -> dict[str, tuple[str, int | None]]:
    found: list[dict[str, Any]] = json.loads(user.succeeds("ps", "-a", "--json"))
    return {one["name"]: (one["state"], one.get("status")) for one in found}


@in_matrix
def test_a_detached_view_goes_on_without_its_caller_until_it_is_stopped(user: TestUser) -> None:
    with removed(user, "v"):
        printed = user.succeeds("run", "-d", "--name", "v", "--", "sleep", "1000")
        assert printed == "v\n"
        assert states(user) == {"v": ("running", None)}
        assert "sleep 1000" in user.succeeds("exec", "v", "ps", "-e", "-o", "args=")
        user.succeeds("stop", "v")
        assert states(user) == {"v": ("stopped", 128 + signal.SIGTERM)}
        *_, row = user.succeeds("ps", "-a").splitlines()
        assert row.split() == ["v", "stopped", "(143)", "sleep", "1000"]


def test_a_view_is_free_though_another_command_looks_whether_it_runs(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with removed(user, "v"):
        user.succeeds("create", "--name", "v", "--", "true")
        view = NamedView("v")
        look = os.open(view.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(look, fcntl.LOCK_SH)
        monkeypatch.setattr(os, "sched_yield", lambda: os.close(look))
        lock = view.lock()
        with pytest.raises(ViewRuns):
            view.lock()
        os.close(lock)


@in_matrix
def test_a_named_view_keeps_what_was_written_for_its_next_start(user: TestUser) -> None:
    with removed(user, "v"):
        add = ("sh", "-c", "echo line >> /tmp/in-kept; cat /tmp/in-kept")
        assert user.succeeds("run", "--name", "v", "--", *add) == "line\n"
        assert states(user) == {"v": ("stopped", 0)}
        assert user.succeeds("start", "-a", "v") == "line\nline\n"
        user.succeeds("start", "v")
        assert user.succeeds("wait", "v") == "0\n"
        assert user.succeeds("logs", "v") == "line\nline\nline\n"
    assert states(user) == {}


def test_a_start_has_the_options_environment_and_directory_of_the_run(user: TestUser) -> None:
    directory = user.directory("here", file="contents")
    script = 'cat file; echo "$ONE $TWO"; hostname'
    arguments = ("run", "--name", "v", "-v", ".:/mnt", "-e", "ONE=1", "-w", "/mnt")
    expected = "contents1 2\nv\n"
    with removed(user, "v"):
        environment = {**os.environ, "TWO": "2"}
        first = user.succeeds(*arguments, "sh", "-c", script, cwd=directory, env=environment)
        assert first == expected
        assert user.succeeds("start", "-a", "v", cwd="/") == expected
        os.rename(directory, directory + ".gone")
        assert f"its working directory {directory} is gone" in user.refused("start", "v")


def test_output_is_kept_apart_by_stream_and_without_loss(user: TestUser) -> None:
    script = "seq 100000; echo error >&2; printf 'no newline'"
    with removed(user, "v"):
        user.succeeds("run", "-d", "--name", "v", "--", "sh", "-c", script)
        user.succeeds("wait", "v")
        done = user.overlaykit("logs", "v")
        lines = [*map(str, range(1, 100001)), "no newline"]
        assert (done.returncode, done.stderr) == (0, "error\n")
        assert done.stdout == "\n".join(lines)


def test_a_long_log_keeps_the_newest_lines_in_two_files_of_a_size(user: TestUser) -> None:
    script = "for number in range(4000): print(f'{number:010000}')"  # 40 MB
    with removed(user, "v"):
        user.succeeds("run", "-d", "--name", "v", "--", "/usr/bin/python3", "-c", script)
        user.succeeds("wait", "v")
        view = NamedView("v")
        sizes = [os.path.getsize(path) for path in view.log]
        assert all(0 < size <= LARGEST_LOG for size in sizes)
        numbers = [int(line[-5:]) for line in user.succeeds("logs", "v").splitlines()[1:]]
        assert numbers == list(range(numbers[0], 4000))
        assert len(numbers) > LARGEST_LOG / 11000


def test_long_lines_and_any_bytes_come_back_as_they_were(user: TestUser) -> None:
    script = "head -c 100000 /dev/zero | tr '\\0' x; printf '\\n\\377\\0\\001\\n'"
    with removed(user, "v"):
        user.succeeds("run", "-d", "--name", "v", "--", "sh", "-c", script)
        user.succeeds("wait", "v")
        done = user.overlaykit("logs", "v", text=False, errors=None)
        assert done.stdout == b"x" * 100000 + b"\n\xff\0\x01\n"  # type: ignore[comparison-overlap]


def test_logs_follow_until_the_view_is_stopped(user: TestUser) -> None:
    with removed(user, "v"):
        script = "mkfifo /tmp/in-fifo; exec 3<>/tmp/in-fifo; echo first; while read line <&3; do echo $line; done"
        user.succeeds("run", "-d", "--name", "v", "--", "sh", "-c", script)
        with user.start("logs", "-f", "v") as logs:
            assert logs.stdout is not None
            assert logs.stdout.readline() == "first\n"
            user.succeeds("exec", "v", "sh", "-c", "echo second > /tmp/in-fifo")
            assert logs.stdout.readline() == "second\n"
            user.succeeds("stop", "v")
            assert logs.stdout.read() == ""
            assert logs.wait() == 0


def test_logs_since_a_time_leave_out_what_came_before(user: TestUser) -> None:
    with removed(user, "v"):
        user.succeeds("run", "-d", "--name", "v", "--", "echo", "said")
        user.succeeds("wait", "v")
        assert user.succeeds("logs", "--since", "1h", "v") == "said\n"
        stamped = user.succeeds("logs", "-t", "v")
        time, text = stamped.split(" ", 1)
        assert text == "said\n"
        assert user.succeeds("logs", "--since", "2999-01-01T00:00:00", "v") == ""
        assert user.succeeds("logs", "--since", time[:26] + "+00:00", "v") == "said\n"
        assert "'soon' is no time" in user.refused("logs", "--since", "soon", "v")


def test_a_command_that_does_not_end_is_killed_after_the_time(user: TestUser) -> None:
    with removed(user, "v"):
        script = "trap '' TERM; echo deaf; while :; do sleep 1000; done"
        user.succeeds("run", "-d", "--name", "v", "--", "sh", "-c", script)
        with user.start("logs", "-f", "v") as logs:
            assert logs.stdout is not None
            assert logs.stdout.readline() == "deaf\n"
            user.succeeds("stop", "-t", "0.1", "v")
            assert logs.wait() == 0
        assert user.succeeds("wait", "v") == "137\n"


def test_kill_sends_the_signal_that_is_named(user: TestUser) -> None:
    with removed(user, "v"):
        script = "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.1; done"
        user.succeeds("run", "-d", "--name", "v", "--", "sh", "-c", script)
        with user.start("logs", "-f", "v") as logs:
            assert logs.stdout is not None
            assert logs.stdout.readline() == "ready\n"
            user.succeeds("kill", "-s", "usr1", "v")
            assert logs.stdout.read() == "caught\n"
        assert user.succeeds("wait", "v") == "5\n"
        assert user.refused("kill", "-s", "SEGV", "v").startswith("kill: argument -s/--signal")


def test_a_temporary_view_is_gone_at_its_end(user: TestUser) -> None:
    user.succeeds("run", "--rm", "--name", "v", "true")
    assert states(user) == {}
    name = user.succeeds("run", "-d", "sleep", "1000").rstrip("\n")
    user.succeeds("exec", name, "touch", "/tmp/in-written")
    assert states(user) == {name: ("running", None)}
    user.succeeds("stop", name)
    assert states(user) == {}


def test_a_view_that_cannot_start_is_not_kept(user: TestUser) -> None:
    for options in ([], ["-d"]):
        line = user.refused("run", "--name", "v", *options, "no-such-command", status=127)
        assert line.startswith("no-such-command: no such command")
        assert states(user) == {}
        assert "there is no layer nope" in user.refused(
            "run", "--name", "v", *options, "-l", "nope", "true"
        )
        assert states(user) == {}


def test_the_state_is_consistent_after_everything_was_killed(user: TestUser) -> None:
    """As after a restart of the machine."""
    with removed(user, "v"):
        script = "echo kept > /tmp/in-kept; sleep 1000"
        user.succeeds("run", "-di", "--name", "v", "sh", "-c", script)
        temporary = user.succeeds("run", "-d", "sleep", "1000").rstrip("\n")
        user.succeeds("exec", "v", "sh", "-c", "until grep -q kept /tmp/in-kept; do :; done; sync")
        running = json.loads(user.succeeds("ps", "--json"))
        for one in running:
            for role in ("supervisor", "daemon"):
                if one[role]:
                    os.kill(one[role], signal.SIGKILL)
        user.wait_for_descendants()
        if not user.is_root:  # root's is that of other tests, too
            user.end_server()
            shutil.rmtree(user.runtime)
        assert states(user) == {"v": ("stopped", None)}
        assert user.refused("wait", "v").startswith("v: how it ended is not known")
        assert user.refused("exec", temporary, "true").startswith(f"{temporary}: no view")
        user.succeeds("start", "v")
        assert user.succeeds("exec", "v", "cat", "/tmp/in-kept") == "kept\n"


def test_a_view_is_inspected_and_renamed(user: TestUser) -> None:
    with removed(user, "v", "w"):
        user.succeeds("run", "--name", "v", "true")
        (found,) = json.loads(user.succeeds("inspect", "v"))
        assert (found["state"], found["ended"]["status"]) == ("stopped", 0)
        assert found["definition"]["arguments"][-1] == "true"
        user.succeeds("rename", "v", "w")
        assert states(user) == {"w": ("stopped", 0)}
        assert user.succeeds("start", "-a", "w") == ""
        user.succeeds("rm", "w")


def test_a_view_is_created_before_it_is_started(user: TestUser) -> None:
    with removed(user, "v"):
        assert user.succeeds("create", "--name", "v", "-w", "/usr", "pwd") == "v\n"
        assert states(user) == {"v": ("created", None)}
        assert user.succeeds("start", "-a", "v") == "/usr\n"
        assert states(user) == {"v": ("stopped", 0)}
        assert user.refused("create", "--name", "v", "pwd").startswith("--name v: there is a view")
        assert user.refused("create", "--name", "w").startswith("run: no command given")


def test_a_view_that_is_created_to_be_removed_at_its_end_is_there_until_then(
    user: TestUser,
) -> None:
    with removed(user, "v"):
        user.succeeds("create", "--rm", "--name", "v", "pwd", cwd="/usr")
        assert states(user) == {"v": ("created", None)}
        assert user.succeeds("start", "-a", "v") == "/usr\n"
        assert states(user) == {}


def test_a_unit_of_systemd_starts_a_view_in_the_foreground(user: TestUser) -> None:
    with removed(user, "v"):
        user.succeeds("run", "--name", "v", "echo", "from the unit")
        unit = user.succeeds("generate", "systemd", "v")
        (line,) = [one for one in unit.splitlines() if one.startswith("ExecStart=")]
        command_line = shlex.split(line.removeprefix("ExecStart="))
        assert command_line == [command(), "start", "--attach", "v"]
        assert user.program(command_line) == "from the unit\n"
    assert user.refused("generate", "systemd", "v").startswith("v: there is no view")


def test_what_cannot_be_done_is_named(user: TestUser) -> None:
    for given in ("start", "wait", "rm", "inspect", "logs"):
        assert user.refused(given, "v").startswith("v: there is no view of that name")
    for given in ("stop", "kill"):
        assert user.refused(given, "v").startswith("v: no view or mount of that name")
    with removed(user, "v", "other"):
        user.succeeds("run", "--name", "other", "true")
        user.succeeds("run", "-d", "--name", "v", "sleep", "1000")
        taken = user.refused("run", "--name", "v", "true")
        assert taken.startswith("--name v: there is a view of that name: 'overlaykit start v'")
        for running in (("start", "v"), ("rm", "v")):
            assert user.refused(*running).startswith("v: the view is running: end it first")
        assert user.refused("rename", "other", "v").startswith("--name v: there is a view")
        assert user.refused("rename", "other", "a/b").startswith("--name a/b: use up to 63")


@pytest.mark.parametrize("options", [(), ("--rm",)])
def test_two_at_once_do_not_get_one_name(user: TestUser, options: tuple[str, ...]) -> None:
    with removed(user, "v"):
        arguments = ("run", "-d", "--name", "v", *options, "sleep", "1000")
        both = [user.start(*arguments, stderr=-1) for _ in range(2)]
        outputs = sorted(one.communicate() for one in both)
        assert sorted(one.returncode for one in both) == [0, 125]
        assert outputs[0][0] == ""
        assert "--name v: there is a view of that name" in outputs[0][1]
        assert outputs[1] == ("v\n", "")


def test_views_are_found_by_their_labels(user: TestUser) -> None:
    with removed(user, "v", "w"):
        user.succeeds("create", "--name", "v", "--label", "tier=web", "--label", "bare", "true")
        user.succeeds("run", "-d", "--name", "w", "--label", "tier=db", "sleep", "1000")

        def found(*filters: str) -> list[str]:
            given = [word for one in filters for word in ("--filter", one)]
            return [one["name"] for one in json.loads(user.succeeds("ps", "-a", "--json", *given))]

        assert found("label=tier") == ["w", "v"]
        assert found("label=tier=web") == found("label=bare") == found("status=created") == ["v"]
        assert found("label=tier", "name=w") == found("status=running") == ["w"]
        assert found("label=tie") == found("label=tier=web", "name=w") == []
        shown = json.loads(user.succeeds("inspect", "v", "w"))
        assert shown[0]["definition"]["labels"] == {"tier": "web", "bare": ""}
        assert shown[1]["about"]["labels"] == {"tier": "db"}
        user.succeeds("start", "v")
        user.succeeds("wait", "v")
        assert found("label=tier=web") == ["v"]
        assert "give label, name, status and =VALUE" in user.refused("ps", "--filter", "age=1")
    assert user.refused("run", "--label", "=x", "true").startswith("--label =x: give KEY=VALUE")
    assert user.refused("create", "--label", "", "true").startswith("--label '': give KEY=VALUE")
