"""What a crash or a failure left: seen by ours and by the kernel's overlayfs, and held against what may be there."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
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
        assert unfinished(stack) == []
    with stack.mounted_by_the_kernel() as target:
        assert lasting(looked_at(target)) == ours
    return ours


def unfinished(stack: Stack) -> list[str]:
    """What lies in the work directory and is no whiteout kept for the next use."""
    room = os.path.join(stack.work, "work")
    return [name for name in os.listdir(room) if not _is_whiteout(os.path.join(room, name))]


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
