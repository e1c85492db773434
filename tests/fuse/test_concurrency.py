"""Eight programs change everything at once: the lowers stay as they were, and the tree is the same to all who look."""

from __future__ import annotations

import os

from ..overlay.seen import looked_at
from ..overlay.stack import Stack
from ..posix.table import Dir, File, Link
from .mounted import mounted
from .random_changes import STARTING_POINT, play

PROCESSES = 8
OPERATIONS = 400


def test_eight_programs_leave_one_tree_that_the_kernel_sees_too(stack: Stack) -> None:
    stack.add({name: File(b"top") for name in STARTING_POINT[::3]} | {"d1": Dir(mode=0o700)})
    stack.add(
        {name: File(b"bottom" * 100) for name in STARTING_POINT}
        | {"d0/f0": File(b"linked"), "d1/n0": Link("d0/f0"), "d2/n0": Link("d0/f0")}
    )
    lowers = [looked_at(lower) for lower in stack.lowers]
    with mounted(stack) as mount:
        pids = [_start(mount.target, seed) for seed in range(PROCESSES)]
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * PROCESSES
        seen = looked_at(mount.target)
        mount.await_held(open_files=0)
    assert [looked_at(lower) for lower in stack.lowers] == lowers
    assert (
        len(os.listdir(os.path.join(stack.work, "work"))) <= 1
    )  # the whiteout that others link to
    with mounted(stack) as mount:
        assert looked_at(mount.target) == seen
    if not stack.unprivileged:  # the kernel reads the index of hard links for root alone
        with stack.mounted_by_the_kernel() as target:
            assert looked_at(target) == seen


def _start(root: str, seed: int) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            play(root, seed, OPERATIONS)
            status = 0
        finally:
            os._exit(status)
    return pid
