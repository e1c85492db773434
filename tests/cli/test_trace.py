"""`overlaykit trace` says what programs do with files."""

from __future__ import annotations

import json
import select
import signal
from typing import Any

from ..views.fixtures import only_with
from ..views.user import TestUser

pytestmark = only_with(driver="fuse", server=False)


def events(path: str) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        return [event for event in map(json.loads, file) if "kind" in event]


def test_a_command_is_traced_from_its_first_request_and_its_status_is_kept(user: TestUser) -> None:
    lower = user.directory("lower", data="1\n")
    path = user.path("events")
    script = "cat /data; cat /missing; echo > /new; exit 7"
    done = user.overlaykit(
        "trace", "-l", lower, "-l", "host", "-o", path, "--", "/bin/sh", "-c", script
    )
    assert (done.returncode, done.stdout) == (7, "1\n")
    seen = {(event["kind"], event["path"], event["program"]) for event in events(path)}
    assert {
        ("found", "/data", "cat"),
        ("opened", "/data", "cat"),
        ("read", "/data", "cat"),
        ("missed", "/missing", "cat"),
    } <= seen
    assert ("made", "/new") in {one[:2] for one in seen}
    assert {"/usr/bin/cat"} <= {one[1] for one in seen if one[0] == "executed"}
    with open(path, encoding="utf-8") as file:
        assert json.loads(file.readline())["layers"] == [lower, "host"]
    assert "cat: " in done.stderr


def test_events_are_printed_on_a_line_each_and_of_some_kinds_only(user: TestUser) -> None:
    lower = user.directory("lower", **{"a\nb": "1\n"})
    arguments = ("-l", lower, "-l", "host", "--only", "opened", "--", "/bin/cat", "/a\nb")
    text = user.overlaykit("trace", *arguments).stderr
    assert "/a\\nb" in text
    assert "missed  " not in text
    printed = user.overlaykit("trace", "--json", *arguments).stderr.splitlines()
    kinds = {json.loads(line)["kind"] for line in printed if line.startswith("{")}
    assert kinds == {"opened"}
    assert "the kinds are" in user.refused("trace", "--only", "nothing", "--", "true")
    assert "name one view" in user.refused("trace")
    assert "trace it by its name" in user.refused("trace", "--vm", "--", "true")
    assert "nothing" in user.refused("trace", "nothing")


def test_a_running_view_is_traced_until_a_signal(user: TestUser) -> None:
    lower = user.directory("lower", data="1\n")
    script = "while read x; do cat /data; done"
    view = user.start(
        "run", "--rm", "--name", "v", "-l", lower, "-l", "host", "--", "/bin/sh", "-c", script
    )
    with view:
        assert view.stdin is not None
        assert view.stdout is not None
        view.stdin.write("\n")
        view.stdin.flush()
        assert view.stdout.readline() == "1\n"
        with user.start("trace", "--only", "opened", "v") as trace:
            assert trace.stdout is not None
            line = ""
            while "/data" not in line:
                view.stdin.write("\n")
                view.stdin.flush()
                view.stdout.readline()
                # The trace may not have begun.
                if select.select([trace.stdout], [], [], 0.2)[0]:
                    line = trace.stdout.readline()
            assert line.split()[:2] == ["opened", "cat"]
            trace.send_signal(signal.SIGINT)
            trace.stdout.read()
            assert trace.wait() == 0
        view.stdin.close()
        assert view.wait() == 0
