"""git: a thousand commits in a view make the repository that they make on a plain directory."""

from __future__ import annotations

import os

from ..fuse.mounted import mounted
from ..overlay.stack import Stack
from .programs import run

SECONDS = 900

BEGINNING = """
git init -q .
echo first >first
git add first
GIT_AUTHOR_DATE="1000000000 +0000" GIT_COMMITTER_DATE="1000000000 +0000" git commit -qm first
"""
COMMITS = """
for n in $(seq 1000); do
    mkdir -p dir$((n % 7))
    echo "$n" >>dir$((n % 7))/file$((n % 31))
    git add --all .
    [ $((n % 10)) -ne 0 ] || git mv dir$((n % 7))/file$((n % 31)) moved$n
    GIT_AUTHOR_DATE="$((1000000000 + n)) +0000" GIT_COMMITTER_DATE="$((1000000000 + n)) +0000" git commit -qm "$n"
done
git rev-parse HEAD
"""
SOMEBODY = {
    "GIT_AUTHOR_NAME": "somebody",
    "GIT_COMMITTER_NAME": "somebody",
    "EMAIL": "some@body.example",
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "init.defaultBranch",
    "GIT_CONFIG_VALUE_0": "main",
    "GIT_CONFIG_KEY_1": "gc.auto",  # else it continues in the background
    "GIT_CONFIG_VALUE_1": "0",
}


def test_a_thousand_commits_are_whole_and_the_same(stack: Stack) -> None:
    lower, plain = stack.add({}), os.path.join(stack.directory, "plain")
    os.mkdir(plain)
    for path in (lower, plain):
        run("sh", "-euc", BEGINNING, where=path, **SOMEBODY)
    expected = run("sh", "-euc", COMMITS, where=plain, **SOMEBODY)
    with mounted(stack) as mount:
        assert run("sh", "-euc", COMMITS, where=mount.target, **SOMEBODY) == expected
        assert run("git", "fsck", "--full", "--strict", where=mount.target) == ""
        run("git", "gc", "--quiet", "--aggressive", where=mount.target)
    with mounted(stack) as mount:
        assert run("git", "fsck", "--full", "--strict", where=mount.target) == ""
        assert run("git", "status", "--porcelain", where=mount.target) == ""
        assert run("git", "rev-parse", "HEAD", where=mount.target) == expected
