"""The end of a view: its daemon does no work that grows with the layers, and two ends at once leave nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from overlaykit.fuse import cleanup

from .fixtures import only_with
from .serving import daemon_of
from .user import TestUser

pytestmark = only_with(driver="fuse", server=False)

TOLERATED = 20
"""System calls that depend on the moment, such as waits that are woken once more."""


def calls_at_the_end(user: TestUser, name: str, directories: int) -> int:
    """The system calls of a daemon from the command's end on, after a look-up of all files of the layers."""
    layers = []
    for layer in range(2):
        for number in range(directories):
            user.directory(name, str(layer), "tree", str(number), **{f"{layer}-a": "", "b": ""})
        layers += ["-l", user.path(name, str(layer))]
    trace = user.path(name, "trace")
    view = ("run", "--rm", "--name", name, *layers, "-l", user.small_system(), "-v", "/usr:/usr:ro")
    with user.start(*view, "--", "sh", "-c", "ls -lR /tree | wc -l; read line") as process:
        assert process.stdout is not None
        # A name, its total, "." and an empty line, and what is in it: three files, of which two have one name.
        assert int(process.stdout.readline()) > 5 * directories
        daemon = str(daemon_of(name))
        tracer = ["strace", "-f", "-qq", "-p", daemon, "-o", trace]
        with subprocess.Popen(tracer) as tracing:
            status = f"/proc/{daemon}/status"
            while "TracerPid:\t0\n" in open(status).read():  # noqa: SIM115  # of procfs
                assert tracing.poll() is None
            process.communicate("\n")
            assert process.returncode == 0
    with open(trace) as lines:
        return sum("(" in line for line in lines)


def test_the_end_of_a_view_costs_the_same_with_many_files_looked_up(user: TestUser) -> None:
    few = calls_at_the_end(user, "few", 2)
    many = calls_at_the_end(user, "many", 300)
    assert many <= few + TOLERATED


def test_two_ends_at_once_leave_no_registry(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last entry goes while another process, which has found it, has the registry locked."""
    registry = user.directory("registry")
    entry = user.directory("registry", "entry")
    end = f"import os; from overlaykit.fuse import cleanup; os.rmdir({entry!r}); "
    end += f"cleanup.remove_registry_if_empty({registry!r})"
    listed = os.listdir

    def list_before_the_other_end(path: str) -> list[str]:
        names = listed(path)
        if names == ["entry"]:
            subprocess.run([sys.executable, "-c", end], check=True)
            assert listed(registry) == []
        return names

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", list_before_the_other_end)
        cleanup.remove_registry_if_empty(registry)
    assert not os.path.exists(registry)
