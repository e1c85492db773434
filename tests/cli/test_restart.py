"""`run -d --restart`: views that are started again when their command ends."""

from __future__ import annotations

import os
import signal

from overlaykit.procfs import descendants

from ..views.fixtures import in_matrix, with_both_drivers
from ..views.user import TestUser, command_line
from .test_named import removed, states

pytestmark = with_both_drivers


def keeper_of_restarts() -> int:
    """The process that would start the view again. It executes its program while the supervisor starts the view."""
    while True:
        found = [one for one in descendants(os.getpid()) if "--after" in command_line(one)]
        assert len(found) <= 1
        if found:
            return found[0]


@in_matrix
def test_a_command_that_fails_is_started_again_so_many_times(user: TestUser) -> None:
    with removed(user, "v"):
        script = "echo line >> /tmp/in-lines; cat /tmp/in-lines; echo; hostname; exit 3"
        arguments = ("-d", "--name", "v", "--restart", "on-failure:2", "-p", "0:80")
        assert user.succeeds("run", *arguments, "--", "sh", "-c", script) == "v\n"
        with user.start("logs", "-f", "v") as following:
            assert user.succeeds("wait", "v") == "3\n"
            followed, _ = following.communicate()
        assert states(user) == {"v": ("stopped", 3)}
        assert followed == user.succeeds("logs", "v")
        lines = followed.splitlines()
        assert lines == [one for n in (1, 2, 3) for one in [*["line"] * n, "", "v"]]
        # A later start begins to count again.
        user.succeeds("start", "v")
        user.wait_for_descendants()
        assert user.succeeds("logs", "v").count("v\n") == 6


def test_a_view_goes_on_until_it_is_stopped(user: TestUser) -> None:
    with removed(user, "v"):
        script = "echo begun; exec sleep 1000"
        user.succeeds("run", "-d", "--name", "v", "--restart", "always", "--", "sh", "-c", script)
        with user.start("logs", "-f", "v") as logs:
            assert logs.stdout is not None
            assert logs.stdout.readline() == "begun\n"
            logs.kill()
        user.succeeds("kill", "v")
        # Standard error of the log says that the view was killed.
        while user.overlaykit("logs", "v").stdout != "begun\nbegun\n":
            os.sched_yield()
        user.succeeds("stop", "v")
        user.wait_for_descendants()
        name, (state, _) = next(iter(states(user).items()))
        assert (name, state) == ("v", "stopped")
        assert user.overlaykit("logs", "v").stdout == "begun\nbegun\n"


def test_a_view_is_stopped_and_removed_while_it_waits_for_its_next_start(user: TestUser) -> None:
    for command in (("stop", "v"), ("rm", "-f", "v")):
        with removed(user, "v"):
            user.succeeds("run", "-d", "--name", "v", "--restart", "always", "false")
            while states(user) != {"v": ("restarting", 1)}:
                os.sched_yield()
            user.succeeds(*command)
            user.wait_for_descendants()
            assert "running" not in [state for state, _ in states(user).values()]


def test_a_start_takes_the_place_of_one_that_waits(user: TestUser) -> None:
    with removed(user, "v"):
        script = "test -e /mnt/go || exit 1; exec sleep 1000"
        options = (
            "-d",
            "--name",
            "v",
            "--restart",
            "always",
            "-v",
            f"{user.directory('shared')}:/mnt",
        )
        user.succeeds("run", *options, "--", "sh", "-c", script)
        while states(user) != {"v": ("restarting", 1)}:
            os.sched_yield()
        user.write(user.path("shared", "go"), "")
        user.overlaykit("start", "v")  # refused if it has just been started
        while user.overlaykit("exec", "v", "true").returncode:
            os.sched_yield()
        keeper_of_restarts()
        user.succeeds("stop", "v")


def test_a_command_that_cannot_be_executed_is_not_tried_again(user: TestUser) -> None:
    line = user.refused("run", "-d", "--name", "v", "--restart", "always", "nope", status=127)
    assert line.startswith("nope: no such command")
    assert states(user) == {}


def test_the_view_outlives_the_process_that_would_start_it_again(user: TestUser) -> None:
    with removed(user, "v"):
        user.succeeds("run", "-d", "--name", "v", "--restart", "always", "sleep", "1000")
        os.kill(keeper_of_restarts(), signal.SIGKILL)
        user.succeeds("exec", "v", "true")
        user.succeeds("kill", "v")
        user.wait_for_descendants()
        assert states(user) == {"v": ("stopped", 137)}


def test_what_cannot_be_started_again_is_named(user: TestUser) -> None:
    for options, said in (
        (("--name", "v"), "--restart always: it is for detached views: add -d"),
        (("-d",), "--restart always: give the view a --name"),
        (("-d", "--rm", "--name", "v"), "--restart always: --rm removes the view at its end"),
    ):
        assert user.refused("run", "--restart", "always", *options, "true").startswith(said)
    assert user.refused("create", "--restart", "x", "true").startswith("--restart x: give no,")
    assert user.succeeds("run", "--restart", "no", "true") == ""
