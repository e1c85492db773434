"""The demo: what it shows, and that it leaves nothing but its layer, also after an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping

import pytest

from overlaykit.layers import Store
from overlaykit.rmtree import rmtree_path

from ..views.user import PATH, TestUser
from .running import run, words

DEMO = "two_pythons.py"
LAYER = "demo-python2.7"
FIRST, SECOND, BOTH = (
    "Starting `python -m SimpleHTTPServer",
    "Starting `python -m http.server",
    "Fetching both",
)
INTERRUPTIONS = (
    (FIRST, signal.SIGINT),
    (SECOND, signal.SIGINT),
    (BOTH, signal.SIGINT),
    (SECOND, signal.SIGTERM),
    (BOTH, signal.SIGHUP),
)

pytestmark = pytest.mark.xdist_group("two pythons")


@pytest.fixture(scope="session")
def python2() -> Iterator[str]:
    """The files of Debian's Python 2.7, readable for everybody."""
    directory = tempfile.mkdtemp(prefix="overlaykit-test-", dir="/var/tmp")
    try:
        os.chmod(directory, 0o755)
        layer = Store(directory).add("python2", "deb:python2.7@bullseye")
        os.chmod(os.path.dirname(layer.path), 0o755)
        yield layer.path
    finally:
        rmtree_path(directory)


def test_two_pythons_are_at_one_path_at_once_and_see_nothing_of_each_other(
    user: TestUser,
) -> None:
    user.set_deadline(180)
    first = run(user, DEMO)
    assert first.returncode == 0, first
    assert "Fetching python2.7" in first.stderr
    rows = table(first.stdout)
    assert rows["/usr/bin/python"][0].startswith("Python 2.7.")
    assert rows["/usr/bin/python"][1].startswith("Python 3.")
    assert rows["the file behind it"][0].endswith(f"{LAYER}/tree/usr/bin/python2.7")
    ports = rows["port 80 of the view"]
    assert ports[0] != ports[1]
    processes = [int(cell) for cell in rows["processes seen"]]
    assert processes[0] == processes[1] < processes[2]
    assert rows["a file written in the python2 view"] == ["there", "absent", "absent"]
    assert rows["a file written in the python3 view"] == ["absent", "there", "absent"]
    assert max(len(line) for line in first.stdout.splitlines() if line.startswith("│")) <= 100
    assert os.listdir(user.store) == [LAYER]

    again = run(user, DEMO, "--offline")
    assert again.returncode == 0, again
    assert table(again.stdout)["/usr/bin/python"] == rows["/usr/bin/python"]


def test_offline_it_takes_a_python2_of_this_machine_and_says_so(
    user: TestUser, python2: str
) -> None:
    bin_directory = user.directory("bin")
    python = os.path.join(python2, "usr/bin/python2.7")
    os.symlink(python, os.path.join(bin_directory, "python2.7"))
    done = run(user, DEMO, "--offline", env=os.environ | {"PATH": f"{bin_directory}:{PATH}"})
    assert done.returncode == 0, done
    assert table(done.stdout)["/usr/bin/python"][0].startswith("Python 2.7.")
    note = f"was not fetched (--offline was given): it is the machine's own {python}."
    assert note in done.stdout


def test_without_any_python2_it_says_what_to_do(user: TestUser) -> None:
    empty = os.environ | {"PATH": user.directory("bin")}
    done = run(user, DEMO, "--offline", env=empty)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr == (
        "two_pythons: no Python 2.7 (--offline was given), and this machine has none either:"
        " put a python2.7 on PATH\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_fetches_it_leaves_nothing(
    user: TestUser, number: signal.Signals
) -> None:
    begun = user.path("begun")
    os.mkfifo(begun)
    programs = user.directory("bin")
    apt_get = user.write(
        os.path.join(programs, "apt-get"),
        f'#!/bin/sh\necho "$@" >{begun}\nexec /usr/bin/apt-get "$@"\n',
    )
    os.chmod(apt_get, 0o755)
    path = os.environ | {"PATH": f"{programs}:{PATH}"}
    with start(path) as demo:
        with open(begun) as arguments:
            assert "update" in arguments.read()
        demo.send_signal(number)
        _, err = demo.communicate()
    assert demo.returncode == 128 + number
    assert "Traceback" not in err
    user.wait_for_descendants()  # of what apt had started
    assert os.listdir(user.store) == []


@pytest.mark.parametrize(("step", "number"), INTERRUPTIONS)
@pytest.mark.one_in(4)
def test_interrupted_at_any_step_it_leaves_nothing(
    user: TestUser, python2: str, step: str, number: signal.Signals
) -> None:
    user.succeeds("layer", "add", LAYER, f"dir:{python2}")
    before = user.leftovers()
    assert interrupted(step, number) == 128 + number
    assert user.leftovers() == before


def test_interrupted_while_it_ends_the_views_it_goes_on_to_the_end(
    user: TestUser, python2: str
) -> None:
    user.succeeds("layer", "add", LAYER, f"dir:{python2}")
    # It may have ended before the signal came.
    assert interrupted("Ending both views", signal.SIGINT) in (0, 130)


def start(env: Mapping[str, str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(words(DEMO), stdout=pipe, stderr=pipe, text=True, env=env)


def interrupted(step: str, number: signal.Signals) -> int:
    """The exit status of a demo that is sent a signal when it announces `step`."""
    with start(os.environ) as demo:
        assert demo.stderr is not None
        line = next((line for line in demo.stderr if line.startswith(step)), None)
        assert line is not None, f"it never came to {step}"
        demo.send_signal(number)
        out, err = demo.communicate()
    assert "Traceback" not in err
    assert demo.returncode == 0 or out == ""
    return demo.returncode


def table(printed: str) -> dict[str, list[str]]:
    """The rows of the printed table, by their headings; what was broken into lines is whole again."""
    rows: dict[str, list[str]] = {}
    cells: list[list[str]] = []
    for line in printed.splitlines():
        if line.startswith("│"):
            cells.append([cell.strip() for cell in line.strip("│").split("│")])
        elif cells:
            heading, *columns = zip(*cells, strict=True)
            rows[" ".join(heading).strip()] = ["".join(column) for column in columns]
            cells = []
    return rows
