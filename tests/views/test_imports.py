"""The launcher imports what it uses: each import delays every view."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .fixtures import only_with
from .test_driver import DRIVERS, USR, system
from .user import TestUser

pytestmark = only_with(driver="fuse", server=False)  # a test chooses both itself

LIBRARY = {
    "__future__",
    "_socket",
    "_struct",
    "atexit",
    "errno",
    "fcntl",
    "gc",
    "pwd",
    "select",
    "struct",
}
"""The modules of the standard library that a view needs beside those of a bare interpreter.

Each of these costs as much as bwrap in all, or more: argparse (8 ms), contextlib (4), dataclasses (15), enum (4), json
(7), re (5), signal (4), socket (7), subprocess (10), typing (10). `cli.options`, `codec`, `lean`, `record`, `scope`,
`signals` and `sockets` stand in for them.
"""

DIFF_LIBRARY = LIBRARY | {"_collections", "_functools", "_json", "itertools", "mmap", "resource"}
"""As `LIBRARY`, of `diff`: all are C."""

MODULES = 74
"""The most modules of overlaykit itself, of which each costs 0.15 ms."""

DIFF_MODULES = 73
"""As `MODULES`, of `diff`; root has two less, which read what modes close."""


def imported(*command: str) -> set[str]:
    """The modules that a program imports, without those that it forks off."""
    program = (sys.executable, "-X", "importtime", "-P", "-c", *command)
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip() for line in lines} - {"imported package"}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("server", ["off", "5"])
def test_run_imports_nothing_slow(
    user: TestUser, monkeypatch: pytest.MonkeyPatch, driver: str, server: str
) -> None:
    monkeypatch.setenv("OVERLAYKIT_SERVER", server)
    main = "from overlaykit.cli.main import main; main()"
    user.succeeds("layer", "add", "stored", f"dir:{user.directory('source', file='x')}")
    options = (
        "--driver",
        driver,
        "-l",
        "stored",
        "-l",
        system(user),
        "-v",
        USR,
        "-p",
        "0:80",
        "-e",
        "A=B",
    )
    found = imported(main, "run", *options, "--", "true") - imported("pass")
    user.overlaykit("server", "stop")
    ours = {name for name in found if name.partition(".")[0] == "overlaykit"}
    assert found - ours <= LIBRARY
    assert "overlaykit.namespace.launcher" in ours
    assert len(ours) <= MODULES


def test_a_daemon_does_without_the_metadata_of_packages() -> None:
    load = "from overlaykit.fuse import daemon_process as d; d.load(); import pyfuse3"
    assert not {"importlib.metadata", "email", "zipfile"} & imported(load)


def test_diff_imports_nothing_slow(user: TestUser) -> None:
    lower, upper = user.directory("lower", file="x"), user.directory("upper", file="y", new="")
    main = "from overlaykit.cli.main import main; main()"
    user.succeeds("run", "-d", "--name", "v", "-l", system(user), "-v", USR, "--", "sleep", "1000")
    try:  # its entry in the registry is read
        found = imported(main, "diff", "-l", lower, upper) - imported("pass")
    finally:
        user.succeeds("rm", "-f", "v")
    ours = {name for name in found if name.partition(".")[0] == "overlaykit"}
    assert found - ours <= DIFF_LIBRARY
    assert "overlaykit.changes.read" in ours
    assert not ours & {"overlaykit.overlay.stack", "overlaykit.overlay.copyup"}
    assert len(ours) <= DIFF_MODULES
