"""`overlaykit compare`: a command as a process and in views."""

from __future__ import annotations

import json
import os

from ..views.user import TestUser


def test_a_command_is_measured_where_it_can_run(user: TestUser) -> None:
    made = user.path("made")
    arguments = (
        "compare",
        "--rounds",
        "1",
        "--only",
        "process,view",
        "--json",
        "--",
        "sh",
        "-c",
        f"echo >>{made}",
    )
    report = json.loads(user.succeeds(*arguments))
    found = {
        (cost["workload"], cost["system"]): cost["values"]
        for cost in report["costs"]
        if cost["system"] in ("process", "view")
    }
    rows = ["start", "command: time", "command: processor", "memory", "storage", "system calls"]
    assert found.keys() == {(row, at) for row in [*rows, "requests"] for at in ("process", "view")}
    assert found["memory", "process"] == found["storage", "process"] == [0.0]
    assert min(min(values) for (_, at), values in found.items() if at == "view") >= 0
    assert found["memory", "view"] > [1 << 20]
    assert found["start", "view"] > found["start", "process"]
    # Twice as a process, for its time and its processor time; what it changes in a view is dropped.
    with open(made) as file:
        assert file.read() == "\n\n"
    # A user may lack the kernel's overlayfs.
    assert [one for one in report["left_out"] if one["system"] != "view, kernel"] == []


def test_a_failing_command_is_named_and_leaves_nothing(user: TestUser) -> None:
    before = os.listdir(user.scratch)
    printed = user.succeeds(
        "compare", "--rounds", "1", "--only", "process", "--", "sh", "-c", "exit 3"
    )
    assert "left out: command: time, command: processor on process: sh: ended with 3" in printed
    assert "process: nothing is separated: what it changes is changed." in printed
    assert os.listdir(user.scratch) == before


def test_bad_arguments_are_refused_in_one_line(user: TestUser) -> None:
    assert user.refused("compare").startswith("compare: no command given")
    assert user.refused("compare", "--rounds", "0", "true").startswith(
        "compare: --rounds 0: give 1"
    )
    line = user.refused("compare", "--only", "process,moon", "true")
    assert (
        line == "--only moon: no such place: give process, view, vm, or several with commas between"
    )
