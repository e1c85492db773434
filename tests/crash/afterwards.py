"""What a crash or a failure left: seen by ours and by the kernel's overlayfs, and held against what may be there."""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Mapping
from typing import TypeAlias

from ..overlay.seen import Seen, look_through, looked_at
from ..overlay.stack import Stack

Tree: TypeAlias = Mapping[str, Seen]

BY_HAND = 1_400_000_000_000_000_000
"""Nanoseconds since the epoch: later times were set by the system."""


def shown(stack: Stack) -> Tree:
    """The tree that ours and the kernel's overlayfs both show over the stack, ours first; the work room was cleared."""
    with stack.bare() as view:
        ours = lasting(look_through(view))
        assert os.listdir(os.path.join(stack.work, "work")) == []
    with stack.mounted_by_the_kernel() as target:
        assert lasting(looked_at(target)) == ours
    return ours


def below(name: str, tree: Tree) -> Tree:
    """The part of a tree in one directory, as `staging.look` finds it."""
    return {
        path.removeprefix(name).removeprefix("/"): seen
        for path, seen in tree.items()
        if path == name or path.startswith(name + "/")
    }


def astray(stack: Stack, tree: Container[str]) -> list[str]:
    """What lies in the work directory but the whiteout kept for the next use, and in the upper but not in the tree."""
    room = os.path.join(stack.work, "work")
    found = [os.path.join(room, name) for name in os.listdir(room)]
    if kept := next(filter(_is_whiteout, found), None):
        found.remove(kept)
    for directory, directories, files in os.walk(stack.upper):
        for name in directories + files:
            path = os.path.join(directory, name)
            if _is_whiteout(path) == (os.path.relpath(path, stack.upper) in tree):
                found.append(path)
    return found


def lasting(tree: Tree) -> Tree:
    """Without what says nothing: the times that the system set, and the link counts of directories."""
    return {
        path: seen._replace(
            mtime_ns=min(seen.mtime_ns, BY_HAND),
            links=0 if stat.S_ISDIR(seen.mode) else seen.links,
        )
        for path, seen in tree.items()
    }


def _is_whiteout(path: str) -> bool:
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
