"""`overlaykit ps`: what is running, and only that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

from ..views.someone import Someone, descendants


def listed(someone: Someone) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(someone.succeeds("ps", "--json"))
    return found


def started(someone: Someone, *options: str) -> subprocess.Popen[str]:
    view = someone.start("run", *options, "--", "sh", "-c", "echo started; read line")
    assert view.stdout is not None
    assert view.stdout.readline() == "started\n"
    return view


def test_views_and_mounts_are_listed_while_they_run_oldest_first(someone: Someone) -> None:
    assert listed(someone) == []
    lower, target = someone.directory("lower"), someone.directory("target")
    someone.succeeds("mount", "-o", f"lowerdir={lower}", "--name", "mounted", target)
    upper = someone.path("upper")
    with started(someone, "--name", "view", "--upper", upper, "-p", "0:80") as view:
        mount, run = listed(someone)
        assert (mount["name"], mount["target"], mount["layers"]) == ("mounted", target, [lower])
        assert (run["name"], run["upper"], run["layers"]) == ("view", upper, ["host"])
        assert run["command"] == ["sh", "-c", "echo started; read line"]
        assert run["pid"] in descendants(view.pid)
        assert {mount["daemon"], run["daemon"]} <= set(descendants(os.getpid()))
        assert mount["started"] < run["started"]
        (port,) = run["ports"]
        address, number, inside = port.split(":")
        assert (address, inside) == ("127.0.0.1", "80")
        assert int(number) > 0
        table = someone.succeeds("ps").splitlines()
        assert table[0].split()[:3] == ["NAME", "PID", "STARTED"]
        assert [line.split()[0] for line in table[1:]] == ["mounted", "view"]
        assert table[2].rstrip().endswith("sh -c 'echo started; read line'")
        view.communicate("end\n")
    assert [one["name"] for one in listed(someone)] == ["mounted"]
    someone.succeeds("umount", target)
    assert listed(someone) == []


def test_a_view_without_a_name_gets_one_that_can_be_used(someone: Someone) -> None:
    with started(someone) as view:
        (run,) = listed(someone)
        assert someone.succeeds("explain", run["name"], "/etc").startswith("/etc\n")
        view.communicate("end\n")


def test_a_view_that_was_killed_is_not_listed(someone: Someone) -> None:
    with started(someone) as view:
        os.kill(view.pid, signal.SIGKILL)
        view.wait()
        someone.await_the_end()
    assert listed(someone) == []
