"""Output that cannot be written: one line, or silence if the reader is gone, and never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

import overlaykit

from ..views.fixtures import only_as
from ..views.user import TestUser, command
from .terminals import Terminal

PRINTS = [
    ("--help",),
    ("--version",),
    ("run", "--help"),
    ("ps",),
    ("ps", "--json"),
    ("layer", "ls"),
    ("doctor",),
    ("bench", "--list"),
    ("bench", "--only", "create/small", "--system", "plain", "--quick", "--rounds", "1"),
]


def run_with_stdout(descriptor: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command(), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=descriptor,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


@only_as("ordinary user")  # the same for root
@pytest.mark.parametrize("arguments", PRINTS, ids=" ".join)
def test_a_full_disk_under_the_output_is_reported_in_one_line(
    user: TestUser, arguments: tuple[str, ...]
) -> None:
    with open("/dev/full", "wb") as full:
        done = run_with_stdout(full.fileno(), *arguments)
    assert (done.returncode, done.stderr) == (
        125,
        (
            "overlaykit: standard output cannot be written to (No space left on device):"
            " make room there, or redirect it\n"
        ),
    )


@only_as("ordinary user")
@pytest.mark.parametrize("arguments", PRINTS, ids=" ".join)
def test_a_closed_pipe_is_no_error(user: TestUser, arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run_with_stdout(writer, *arguments)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@only_as("ordinary user")
def test_a_full_disk_under_standard_error_changes_no_status(user: TestUser) -> None:
    with open("/dev/full", "wb") as full:
        assert user.overlaykit("nonsense", stderr=full, capture_output=False).returncode == 125
        assert (
            user.overlaykit("run", "no-such", stderr=full, capture_output=False).returncode == 127
        )


@only_as("ordinary user")
def test_colours_are_for_terminals_and_never_with_no_color(user: TestUser) -> None:
    for arguments in (("ps",), ("doctor",), ("layer", "ls")):
        for variables, coloured in (
            ({"TERM": "xterm"}, True),
            ({"TERM": "xterm", "NO_COLOR": "1"}, False),
            ({"TERM": "dumb"}, False),
        ):
            environment = {"NO_COLOR": "", "FORCE_COLOR": "", **variables}
            with Terminal(command(), *arguments, env=environment) as terminal:
                assert terminal.finish() == 0
                assert ("\033[" in terminal.output) == coloured, (arguments, variables)
        forced = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm"}
        assert "\033[" not in user.succeeds(*arguments, env=forced)


@only_as("ordinary user")
def test_what_is_for_programs_is_json(user: TestUser) -> None:
    user.succeeds("run", "-d", "--name", "v", "--", "sh", "-c", "echo one; echo two >&2; exit 3")
    assert [one["status"] for one in json.loads(user.succeeds("wait", "--json", "v"))] == [3]
    lines = [json.loads(line) for line in user.succeeds("logs", "--json", "v").splitlines()]
    assert {(one["stream"], one["text"]) for one in lines} == {("stdout", "one"), ("stderr", "two")}
    for arguments in (("ps", "-a"), ("inspect", "v"), ("layer", "ls"), ("doctor",), ("stats",)):
        assert isinstance(json.loads(user.succeeds(*arguments, "--json")), list)
    user.succeeds("rm", "v")


ENDS = """
import atexit, os, sys
from overlaykit.cli.main import main
class Kept:
    def __del__(self): os.write(2, b"taken apart")
kept = Kept()
if sys.argv.pop(1) == "registered": atexit.register(os.write, 2, b"called, ")
main()
"""


@pytest.mark.parametrize(("registered", "end"), [("no", ""), ("registered", "called, taken apart")])
def test_a_command_ends_at_once_if_nothing_is_registered_for_its_end(
    registered: str, end: str
) -> None:
    # -S: no coverage, which registers its report.
    path = f"import sys; sys.path.insert(0, {os.path.dirname(overlaykit.__path__[0])!r})\n"
    arguments = (sys.executable, "-S", "-c", path + ENDS, registered, "--version")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, end)
    assert done.stdout == f"overlaykit {overlaykit.__version__}\n"
