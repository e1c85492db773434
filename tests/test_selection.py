"""`make test` runs each test, though not in each variant."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .views.user import CHECKOUT

ROOMY = "tests/namespace/test_signals.py"
OF_RIGHTS = "tests/namespace/test_isolation.py"
IN_TURNS = "tests/native/test_plane.py"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs a test as two users")


def collected(*arguments: str) -> list[str]:
    """The names of the tests that pytest would run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    listed = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if "::" in line]


def test_each_test_runs_as_one_user_and_those_of_rights_as_each() -> None:
    everything, usual = (collected(*how, ROOMY, OF_RIGHTS, IN_TURNS) for how in (["--all"], []))
    assert {_function(name) for name in usual} == {_function(name) for name in everything}
    assert _of(usual, OF_RIGHTS) == _of(everything, OF_RIGHTS)
    assert 2 * len(_of(usual, ROOMY)) == len(_of(everything, ROOMY))
    users = {name.partition("[")[2] for name in _of(usual, ROOMY)}
    assert any(user.startswith("root") for user in users)
    assert any(user.startswith("ordinary user") for user in users)
    malformed = [name for name in usual if "::test_malformed_requests" in name]
    assert len(malformed) == 3


def test_a_test_that_is_named_runs_in_all_variants() -> None:
    name = _function(collected(ROOMY)[0])
    assert collected(name) == collected("--all", name)
    assert len(collected(name)) > 1


def _function(name: str) -> str:
    return name.partition("[")[0]


def _of(names: list[str], file: str) -> list[str]:
    return [name for name in names if name.startswith(file)]
