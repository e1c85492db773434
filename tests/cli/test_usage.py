"""`overlaykit top` and `overlaykit stats`: the processes of a view and what they use."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from ..views.fixtures import with_both_drivers
from ..views.user import TestUser

pytestmark = with_both_drivers


def top(user: TestUser, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(user.succeeds("top", "--json", name))
    return found


def test_the_processes_of_a_view_are_listed_and_no_others(user: TestUser) -> None:
    script = "sleep 1000 & echo on; read line; kill $!"
    with user.start("run", "--rm", "--name", "v", "sh", "-c", script) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "on\n"
        found = top(user, "v")
        assert [one["inside"] for one in found][:2] == [1, 2]
        assert ["sleep", "1000"] in [one["command"] for one in found]
        assert len(found) == 3
        assert {one["uid"] for one in found} == {os.getuid()}
        table = user.succeeds("top", "v").splitlines()
        assert table[0].split() == ["PID", "INSIDE", "UID", "STATE", "TIME", "MEMORY", "COMMAND"]
        assert len(table) == 4
        view.communicate("end\n")
    assert user.refused("top", "v").startswith("v: no view or mount of that name")


def test_what_a_view_uses_is_shown(user: TestUser) -> None:
    busy = (
        "x = bytes(50 << 20)\n"
        "import time\n"
        "while time.process_time() < 0.6: pass\n"
        "print('on', flush=True)\n"
        "input()\n"
    )
    with user.start("run", "--rm", "--name", "v", "/usr/bin/python3", "-c", busy) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "on\n"
        (shown,) = json.loads(user.succeeds("stats", "--json", "v"))
        assert shown["name"] == "v"
        assert shown["processes"] == 2
        assert shown["seconds"] >= 0.5
        assert shown["limit"] is None
        heading, line = user.succeeds("stats", "--no-stream").splitlines()
        assert heading.split()[0] == "NAME"
        assert line.split()[0] == "v"
        with user.start("stats", "v") as live:
            assert live.stdout is not None
            for _ in range(2):
                while not live.stdout.readline().startswith("v "):
                    pass
            live.send_signal(signal.SIGINT)
        view.communicate("\n")
