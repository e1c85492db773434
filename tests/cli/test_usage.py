"""`overlaykit top` and `overlaykit stats`: the processes of a view and what they use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

from ..views.fixtures import only_with, with_both_drivers
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


@only_with(driver="fuse")
def test_the_requests_of_a_view_are_counted_and_timed(user: TestUser) -> None:
    script = "mkdir /tmp/in-d; for name in 1 2 3 4 5; do echo x > /tmp/in-d/$name; done; echo on; read line"
    with user.start("run", "--rm", "--name", "v", "sh", "-c", script) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "on\n"
        found = json.loads(user.succeeds("stats", "--requests", "--json", "v"))
        made = {one["by"]: one for one in found if one["request"] == "create"}
        assert sum(one["count"] for one in made.values()) >= 5
        assert made["native"]["count"] >= 4
        for one in found:
            assert one["name"] == "v"
            assert sum(latency["count"] for latency in one["below"]) == one["count"]
            assert one["nanoseconds"] > 0
            assert one["below"][-1]["nanoseconds"] is None
        rows = [line.split() for line in user.succeeds("stats", "--requests").splitlines()]
        assert rows[0][:4] == ["NAME", "REQUEST", "BY", "NUMBER"]
        assert ["v", "create", "native"] in [row[:3] for row in rows]
        lines = user.succeeds("stats", "--prometheus", "v").splitlines()
        assert lines[1] == "# TYPE overlaykit_request_seconds histogram"
        labels = 'view="v",request="create",by="native"'
        buckets = [
            int(line.split()[1])
            for line in lines
            if line.startswith(f"overlaykit_request_seconds_bucket{{{labels},")
        ]
        assert buckets == sorted(buckets)
        assert f"overlaykit_request_seconds_count{{{labels}}} {buckets[-1]}" in lines
        view.communicate("end\n")
    assert user.refused("stats", "--requests", "v").startswith("v: no view or mount of that name")


@only_with(driver="fuse")
def test_python_answers_all_requests_where_a_view_has_no_data_plane(user: TestUser) -> None:
    script = "mkdir /tmp/d; echo x > /tmp/d/f; cat /tmp/d/f; ls -R /tmp/d; echo on; read line"
    options = ("--rm", "--data-plane", "off", "--name", "v")
    with user.start("run", *options, "sh", "-c", script) as view:
        assert view.stdout is not None
        while view.stdout.readline() != "on\n":
            pass
        found = json.loads(user.succeeds("stats", "--requests", "--json", "v"))
        native = {one["request"] for one in found if one["by"] == "native"}
        assert native <= {"opendir", "ioctl", "lseek", "other"}  # which nothing implements
        assert "create" in {one["request"] for one in found if one["by"] == "python"}
        view.communicate("end\n")


@only_with(driver="fuse")
def test_files_of_stored_layers_are_opened_without_requests_and_others_only_if_asked(
    user: TestUser,
) -> None:
    directory = user.small_system()
    user.succeeds("layer", "add", "small", f"dir:{directory}")
    script = "for n in 1 2 3 4 5 6 7 8 9; do read _ </etc/group; done; echo on; read _"
    profile = "[app]\nlayers = ['small']\nno-open = 'off'\nvolumes = ['/usr:/usr:ro']\n"
    project = user.directory(
        "project", **{"overlaykit.toml": f'{profile}command = ["sh", "-c", "{script}"]\n'}
    )
    for given, is_without in (
        (("-l", "small"), True),
        (("-l", "small", "--no-open", "off"), False),
        (("-l", "small", "--disk", "10m"), False),
        (("-l", "small", "-l", directory), False),
        (("-l", directory, "--no-open", "on"), True),
        (("-l", "host", "--no-open", "on"), False),
        (("app",), False),
    ):
        view_of = ("-v", "/usr:/usr:ro", *given, "--", "sh", "-c", script)
        arguments = given if given == ("app",) else view_of
        pipes = {"cwd": project, "stderr": subprocess.PIPE}
        with user.start("run", "--rm", "--name", "v", *arguments, **pipes) as view:
            assert view.stdout is not None
            assert view.stdout.readline() == "on\n", (given, view.communicate())
            found = json.loads(user.succeeds("stats", "--requests", "--json", "v"))
            _, said = view.communicate("\n")
        # The answer to the first one is that none shall come.
        opens = sum(one["count"] for one in found if one["request"] == "open")
        assert (opens <= 1, opens >= 9) == (is_without, not is_without), (given, opens)
        reason = "overlaykit: no_open=on: without effect here: the files of a layer may change"
        assert said.startswith(reason) if "host" in given else not said
