"""Standard descriptors that the caller has closed: no internal file takes their numbers."""

from __future__ import annotations

import json
import os
import subprocess
from itertools import combinations

import pytest

from ..views.user import TestUser, command

SUBSETS = [numbers for size in (1, 2, 3) for numbers in combinations(range(3), size)]


def run_with_closed(closed: tuple[int, ...], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command with these descriptors closed; the others are pipes and /dev/null."""
    redirections = " ".join(f"{number}>&-" for number in closed)
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", command(), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("closed", SUBSETS)
@pytest.mark.one_in(2)
def test_a_mount_made_with_closed_descriptors_goes_on_answering(
    user: TestUser, closed: tuple[int, ...]
) -> None:
    names = ("lower", "upper", "work", "target")
    lower, upper, work, target = map(user.directory, names)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    assert run_with_closed(closed, "mount", "-o", options, target).returncode == 0
    (mount,) = json.loads(user.succeeds("ps", "--json"))
    descriptors = f"/proc/{mount['daemon']}/fd"
    for number in range(3):
        assert os.readlink(f"{descriptors}/{number}") == os.devnull
    user.write(os.path.join(target, "file"), "written\n")
    assert user.succeeds("explain", target, "/file").startswith("/file\n")
    assert run_with_closed(closed, "umount", target).returncode == 0
    assert os.listdir(upper) == ["file"]
    assert os.listdir(target) == []


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_every_command_works_with_closed_descriptors(
    user: TestUser, closed: tuple[int, ...]
) -> None:
    lower, target = user.directory("lower", file=""), user.directory("target")
    user.succeeds("mount", "-o", f"lowerdir={lower}", target)
    try:
        for arguments in (
            ("ps",),
            ("explain", target, "/file"),
            ("layer", "add", "one", f"dir:{lower}"),
            ("layer", "ls"),
            ("layer", "rm", "one"),
            ("--help",),
        ):
            done = run_with_closed(closed, *arguments)
            assert (done.returncode, done.stderr) == (0, b""), arguments
    finally:
        user.succeeds("umount", target)


def test_an_error_is_not_printed_among_the_results(user: TestUser) -> None:
    done = run_with_closed((2,), "umount", user.path("missing"))
    assert (done.returncode, done.stdout) == (125, b"")
