"""The tree after a crash or a failure, as ours and the kernel's overlayfs show it, and the files left beside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Mapping
from typing import TypeAlias

from ..overlay.seen import Seen, look_through, looked_at
from ..overlay.stack import Stack

Tree: TypeAlias = Mapping[str, Seen]

BY_HAND = 1_400_000_000_000_000_000
"""Nanoseconds since the epoch: the system sets only later times."""


def shown(stack: Stack, *, as_kernel: bool = True) -> Tree:
    """The tree that ours and then the kernel's overlayfs show of the stack; ours clears the work directory."""
    with stack.bare() as view:
        ours = lasting(look_through(view))
        assert os.listdir(os.path.join(stack.work, "work")) == []
    if as_kernel:
        with stack.mounted_by_the_kernel() as target:
            assert lasting(looked_at(target)) == ours
    return ours


def below(name: str, tree: Tree) -> Tree:
    """The part of a tree in one directory, in the form of `scenarios.look`."""
    return {
        path.removeprefix(name).removeprefix("/"): seen
        for path, seen in tree.items()
        if path == name or path.startswith(name + "/")
    }


def leftovers(stack: Stack, tree: Container[str]) -> list[str]:
    """The files in the work directory, without the spare whiteout, and those in the upper that are not in the tree."""
    work = os.path.join(stack.work, "work")
    found = [os.path.join(work, name) for name in os.listdir(work)]
    if spare := next(filter(_is_whiteout, found), None):
        found.remove(spare)
    for directory, directories, files in os.walk(stack.upper):
        for name in directories + files:
            path = os.path.join(directory, name)
            if _is_whiteout(path) == (os.path.relpath(path, stack.upper) in tree):
                found.append(path)
    return found


def lasting(tree: Tree) -> Tree:
    """A tree without the times that the system set and the link counts of directories, which vary."""
    return {
        path: seen._replace(
            mtime_ns=min(seen.mtime_ns, BY_HAND),
            links=0 if stat.S_ISDIR(seen.mode) else seen.links,
        )
        for path, seen in tree.items()
    }


def undated(tree: Tree) -> Tree:
    """A tree without the modification times of files."""
    return {path: seen._replace(mtime_ns=0) for path, seen in tree.items()}


def _is_whiteout(path: str) -> bool:
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
