"""`overlaykit attach`: the output of a detached view from now on, and its status."""

from __future__ import annotations

import signal
import subprocess

from ..views.fixtures import with_both_drivers
from ..views.user import TestUser
from .test_named import removed

pytestmark = with_both_drivers

SCRIPT = (
    "trap 'echo caught; exit 7' TERM; mkfifo /tmp/fifo; exec 3<>/tmp/fifo; echo before; "
    "while :; do read line <&3 && { echo $line; echo $line >&2; }; done"
)


def test_output_comes_from_now_on_and_signals_go_to_the_command(user: TestUser) -> None:
    with removed(user, "v"):
        user.succeeds("run", "-d", "--name", "v", "--", "sh", "-c", SCRIPT)
        while user.succeeds("logs", "v") != "before\n":
            pass
        with user.start("attach", "v", stderr=subprocess.PIPE) as attached:
            assert attached.stdout is not None
            assert attached.stderr is not None
            # Until one of them is seen: it says nothing of when it is there.
            user.succeeds(
                "exec",
                "v",
                "sh",
                "-c",
                "(while echo on; do sleep 0.1; done) > /tmp/fifo 2> /dev/null &",
            )
            assert attached.stdout.readline() == "on\n"
            assert attached.stderr.readline() == "on\n"
            attached.send_signal(signal.SIGTERM)
            output, _ = attached.communicate()
            assert output.endswith("caught\n")
            assert attached.returncode == 7


def test_the_view_goes_on_without_it(user: TestUser) -> None:
    with removed(user, "v"):
        user.succeeds("run", "-d", "--name", "v", "--", "sleep", "1000")
        with user.start("attach", "v") as attached:
            attached.kill()
        user.succeeds("exec", "v", "true")
        user.succeeds("stop", "v")
        line = user.refused("attach", "v")
        assert line.startswith("v: the view is not running: 'overlaykit start -a v' starts it")
    assert user.refused("attach", "v").startswith("v: there is no view of that name")
