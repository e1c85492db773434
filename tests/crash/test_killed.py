"""The daemon dies at every step of every operation: what is mounted again is the tree before or the tree after."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from overlaykit.overlay import faults

from ..fuse.mounted import mounted, spec_of, started
from ..overlay import test_modes
from ..overlay.inside import IDENTITIES, as_root
from ..overlay.stack import Stack
from . import test_forms
from .afterwards import below, shown
from .operations import OPERATIONS
from .staging import act, build, look, trees

STEPS = [(name, step) for name, operation in OPERATIONS.items() for step in operation.steps]
SEEN_BY_AN_ORDINARY_USER = dict.fromkeys(step for _, step in STEPS) | {
    step: name for name, step in reversed(STEPS) if not OPERATIONS[name].root_only
}
"""Each step once: only the marks' names differ from root's."""

CASES = {
    "root": STEPS,
    "userns": [(name, step) for step, name in SEEN_BY_AN_ORDINARY_USER.items() if name is not None],
}
DIED = (errno.ECONNABORTED, errno.ENOTCONN)


def test_every_step_is_crashed_at() -> None:
    elsewhere = {*test_modes.STEPS, test_forms.AUFS_MADE}
    tried = {step.partition(":")[0] for _, step in STEPS} | elsewhere
    assert tried == {*faults.STEPS, faults.DATA}


@pytest.mark.parametrize(
    ("sandbox", "name", "step"),
    [
        pytest.param(identity, name, step, id=f"{identity}-{name}-{step}")
        for identity in IDENTITIES
        for name, step in CASES[identity]
    ],
    indirect=["sandbox"],
)
def test_a_crash_leaves_the_old_tree_or_the_new_one(stack: Stack, name: str, step: str) -> None:
    before, after = trees(stack, name)[name]
    build(stack, name)
    crash(stack, name, step)
    assert below(name, shown(stack)) in (before, after)


@as_root
@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("chmod of a hard-linked file", "copyup.indexed"),
        ("rename of a lower directory into another", "rename.prepared"),
        ("rename of a new directory onto an emptied one", "rename.cleared"),
    ],
)
def test_after_a_crash_it_is_mounted_again_and_the_operation_done_again(
    stack: Stack, name: str, step: str
) -> None:
    before, after = trees(stack, name)[name]
    build(stack, name)
    crash(stack, name, step)
    with mounted(stack) as mount:
        assert look(name, mount.target) == before
        act(name, mount.target)
        assert look(name, mount.target) == after
    assert below(name, shown(stack)) == after


def crash(stack: Stack, name: str, step: str) -> None:
    """Let a daemon of our own die at the step, under the operation."""
    os.environ["OVERLAYKIT_FAULT"] = step  # this process and its daemons end with the test
    with started(spec_of(stack), stack.directory) as mount:
        del os.environ["OVERLAYKIT_FAULT"]
        with pytest.raises(OSError, check=lambda error: error.errno in DIED):
            act(name, mount.target)
        by = signal.SIGXFSZ if step.startswith(faults.DATA) else signal.SIGKILL
        assert mount.process.wait() == -by
