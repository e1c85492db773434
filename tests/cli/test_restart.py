"""`run -d --restart`: views that are started again when their command ends."""

from __future__ import annotations

import os
import signal

from overlaykit.procfs import descendants

from ..views.fixtures import in_all_variants, with_both_drivers
from ..views.user import TestUser, command_line
from .test_named import removed, states

pytestmark = with_both_drivers


@in_all_variants
def test_a_command_that_fails_is_started_again_so_many_times(user: TestUser) -> None:
    with removed(user, "v"):
        script = "echo line >> /tmp/lines; cat /tmp/lines; echo; hostname; exit 3"
        arguments = ("-d", "--name", "v", "--restart", "on-failure:2", "-p", "0:80")
        assert user.succeeds("run", *arguments, "--", "sh", "-c", script) == "v\n"
        user.wait_for_descendants()
        assert states(user) == {"v": ("stopped", 3)}
        lines = user.succeeds("logs", "v").splitlines()
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
            while user.succeeds("ps", "--json") != "[]\n":
                os.sched_yield()
            user.succeeds(*command)
            user.wait_for_descendants()
            assert "running" not in [state for state, _ in states(user).values()]


def test_a_command_that_cannot_be_executed_is_not_tried_again(user: TestUser) -> None:
    line = user.refused("run", "-d", "--name", "v", "--restart", "always", "nope", status=127)
    assert line.startswith("nope: no such command")
    assert states(user) == {}


def test_the_view_outlives_the_process_that_would_start_it_again(user: TestUser) -> None:
    with removed(user, "v"):
        user.succeeds("run", "-d", "--name", "v", "--restart", "always", "sleep", "1000")
        (keeper,) = (one for one in descendants(os.getpid()) if "--after" in command_line(one))
        os.kill(keeper, signal.SIGKILL)
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
