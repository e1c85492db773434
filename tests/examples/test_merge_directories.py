"""`examples/merge_directories.sh` mounts, explains and unmounts."""

from __future__ import annotations

from ..views.user import TestUser
from .running import run


def test_two_directories_are_merged_and_the_lower_one_stays_as_it_is(user: TestUser) -> None:
    done = run(user, "merge_directories.sh")
    assert (done.returncode, done.stderr) == (0, ""), done
    first, *explained, merged, bottom, changes = done.stdout.splitlines()
    assert first == "one"
    assert explained[0] == "/file"
    assert [line.split()[0] for line in explained[1:]] == ["answers", "shadowed"]
    assert (merged, bottom, changes) == ("four", "three", "four")
