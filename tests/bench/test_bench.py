"""`overlaykit bench`: its output, its errors, and its cleanup after an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from overlaykit import codec
from overlaykit.bench.results import Report
from overlaykit.bench.selection import QUICK, plan

from ..views.fixtures import only_as
from ..views.user import TestUser

HINT = "give NAME='COMMAND' with {lower}, {upper}, {target} and, where it needs one, {work}"

TINY = ("bench", "--quick", "--rounds", "1", "--only", "stat/warm")
TWO = ("--system", "plain", "--system", "overlaykit")


def test_json_has_everything(user: TestUser) -> None:
    printed = user.succeeds(*TINY, *TWO, "--json")
    found = codec.convert(json.loads(printed), Report)
    assert list(found.systems) == ["plain", "overlaykit"]
    assert (found.baseline, found.rounds) == ("plain", 1)
    cost = found.cost("stat/warm", "overlaykit")
    assert cost is not None
    assert cost.requests == {}


@only_as("ordinary user")  # the user makes no difference
def test_a_person_gets_a_table_and_where_asked_for_a_page(user: TestUser) -> None:
    output = user.path("output")
    printed = user.succeeds(*TINY, *TWO, "--only", "missing/warm", "--output", output)
    assert "stat/warm" in printed
    assert "missing/warm" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert {"report.json", "index.html"} <= set(os.listdir(output))


@only_as("ordinary user")
def test_more_systems_can_be_named(user: TestUser) -> None:
    command = "mine=fuse-overlayfs -o lowerdir={lower},upperdir={upper},workdir={work} {target}"
    target = user.directory("target")
    more = ("--system", command, "--target", target, "--baseline", "mine")
    found = codec.convert(json.loads(user.succeeds(*TINY, *TWO, *more, "--json")), Report)
    assert list(found.systems) == ["plain", "overlaykit", "mine", target]
    assert len(found.costs) == 4
    assert found.ratio("stat/warm", "mine") == 1
    assert os.listdir(target) == []


@only_as("ordinary user")
def test_a_listing_names_workloads_and_systems_and_runs_nothing(user: TestUser) -> None:
    listed = user.succeeds("bench", "--list", "--quick").split()
    assert {"stat/cold", "cc/build", "plain", "kernel", "overlaykit"} <= set(listed)


def test_the_quick_selection_names_existing_workloads() -> None:
    chosen = {workload.name for workload in plan(quick=True).workloads}
    assert len(chosen) >= len(QUICK)
    assert len(plan(quick=True, only=["stat"]).workloads) == 3


@only_as("ordinary user")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--system", "nonsense"],
            (
                "--system nonsense: not one of fuse-overlayfs, kernel, mergerfs, overlaykit, plain, unionfs-fuse:"
                " give one of them, or NAME='COMMAND'"
            ),
        ),
        (
            ["--system", "x=mount {lower} {target}"],
            f"--system x=mount {{lower}} {{target}}: its command lacks {{upper}}: {HINT}",
        ),
        (
            ["--system", "x='mount {lower}"],
            f"--system x='mount {{lower}}: No closing quotation: {HINT}",
        ),
        (
            ["--system", "=true"],
            f"--system =true: its name is missing or malformed: {HINT}",
        ),
        (
            ["--system", "x=no-such {lower} {upper} {target}"],
            f"--system x=no-such {{lower}} {{upper}} {{target}}: there is no program no-such: {HINT}",
        ),
        (
            ["--system", "plain=true {lower} {upper} {target}"],
            "--system plain: another system has this name: give it another one",
        ),
        (
            ["--target", "/no/such"],
            "--target /no/such: no such directory: name an existing one on the file system to be measured",
        ),
        (
            ["--target", "/usr"],
            "--target /usr: you may not write to it: name a directory in which you can make files",
        ),
        (
            ["--only", "nonsense"],
            "--only nonsense: no workload has such a name: 'overlaykit bench --list' lists them",
        ),
        (
            ["--baseline", "kernel", "--system", "plain"],
            "--baseline kernel: not one of the systems of this run: plain",
        ),
        (["--rounds", "0"], "bench: --rounds 0: give 1 or more: see 'overlaykit bench --help'"),
        (
            ["--rounds", "many"],
            "bench: argument --rounds: invalid int value: 'many': see 'overlaykit bench --help'",
        ),
    ],
)
def test_bad_input_gets_one_line_that_names_the_way_out(
    user: TestUser, arguments: list[str], line: str
) -> None:
    assert user.refused("bench", *arguments) == line


@only_as("ordinary user")
def test_an_output_that_holds_other_files_is_refused_before_anything_runs(user: TestUser) -> None:
    output = user.directory("output", theirs="theirs")
    assert output in user.refused("bench", "--output", output)
    assert os.listdir(output) == ["theirs"]


@pytest.mark.parametrize("finished", [0, 1])
@pytest.mark.one_in(2)
def test_interrupted_it_leaves_nothing_and_shows_the_finished_workloads(
    user: TestUser, finished: int
) -> None:
    """A system whose command reports each mount and waits: one for the trial, one for each workload."""
    number = signal.SIGINT if user.is_root else signal.SIGTERM
    mounted, go_on = user.path("mounted"), user.path("go_on")
    for fifo in (mounted, go_on):
        os.mkfifo(fifo)
    mounting = user.write(
        user.path("mounting"),
        f'#!/bin/sh\nfuse-overlayfs -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"\n'
        f"echo >{mounted}\nread line <{go_on}\n",
    )
    os.chmod(mounting, 0o755)
    slow = f"slow={mounting} {{lower}} {{upper}} {{work}} {{target}}"
    with (
        user.start(
            *TINY, "--only", "missing/warm", *TWO, "--system", slow, stderr=subprocess.PIPE
        ) as bench,
        open(mounted, "rb+", buffering=0) as mounts,
        open(go_on, "rb+", buffering=0) as waiting,
    ):
        for _ in range(1 + finished):
            assert mounts.readline() == b"\n"
            waiting.write(b"\n")
        assert mounts.readline() == b"\n"
        bench.send_signal(number)
        waiting.write(b"\n")
        out, err = bench.communicate()
    assert (bench.returncode, err) == (128 + number, "")
    if finished:
        assert "\nstat/warm " in out
        assert out.endswith("left out: missing/warm: the run ended before\n")
    else:
        assert out == ""
