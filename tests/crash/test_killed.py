"""A crash at any step of any operation: the next mount shows the tree before or the tree after."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from overlaykit.overlay import faults

from ..changes.application import BACKWARD, FORWARD
from ..cli.test_snapshots import FROZEN_STEPS
from ..fuse.mounted import mounted, only_with_open, spec_of, started
from ..overlay import test_modes
from ..overlay.inside import IDENTITIES, as_root
from ..overlay.stack import Stack
from . import test_forms
from .operations import OPERATIONS
from .recovered import below, shown, undated
from .scenarios import build, look, run, trees

STEPS = [(name, step) for name, operation in OPERATIONS.items() for step in operation.steps]
SEEN_BY_AN_ORDINARY_USER = dict.fromkeys(step for _, step in STEPS) | {
    step: name for name, step in reversed(STEPS) if not OPERATIONS[name].root_only
}
"""Each step once: only the names of markers differ from root's."""

CASES = {
    "root": STEPS,
    "userns": [(name, step) for step, name in SEEN_BY_AN_ORDINARY_USER.items() if name is not None],
}
DIED = (errno.ECONNABORTED, errno.ENOTCONN)


def test_every_step_is_crashed_at() -> None:
    elsewhere = {*test_modes.STEPS, test_forms.AUFS_MADE, *FORWARD, *BACKWARD, *FROZEN_STEPS}
    tested = {step.partition(":")[0] for _, step in STEPS} | elsewhere
    assert tested == {*faults.STEPS, faults.DATA}


@pytest.mark.parametrize(
    ("sandbox", "name", "step"),
    [
        pytest.param(
            identity,
            name,
            step,
            id=f"{identity}-{name}-{step}",
            marks=only_with_open if name.startswith("open of") else (),
        )
        for identity in IDENTITIES
        for name, step in CASES[identity]
    ],
    indirect=["sandbox"],
)
@pytest.mark.one_in(2)
def test_a_crash_leaves_the_old_tree_or_the_new_one(stack: Stack, name: str, step: str) -> None:
    stack.metacopy = OPERATIONS[name].metacopy
    before, after = trees(stack, name)[name]
    build(stack, name)
    crash(stack, name, step)
    # The kernel's overlayfs reads the lower's data of a metacopy that was emptied, past its size.
    found = below(name, shown(stack, as_kernel=step != "datacopy.emptied"))
    if step == f"{faults.DATA}:4096" and not OPERATIONS[name].changes:  # in place
        found, before = undated(found), undated(before)
    assert found in (before, after)


@as_root
@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("chmod of a hard-linked file", "copyup.indexed"),
        ("rename of a lower directory into another", "rename.prepared"),
        ("rename of a new directory onto an emptied one", "rename.cleared"),
        ("rename of a lower file without its data", "redirect.set"),
        pytest.param("open of a metacopy for writing", "datacopy.synced", marks=only_with_open),
    ],
)
def test_after_a_crash_and_a_new_mount_the_operation_works(
    stack: Stack, name: str, step: str
) -> None:
    stack.metacopy = OPERATIONS[name].metacopy
    before, after = trees(stack, name)[name]
    build(stack, name)
    crash(stack, name, step)
    with mounted(stack) as mount:
        assert look(name, mount.target) == before
        run(name, mount.target)
        assert look(name, mount.target) == after
    assert below(name, shown(stack)) == after


def crash(stack: Stack, name: str, step: str) -> None:
    """Crash a daemon at the step of the operation."""
    os.environ["OVERLAYKIT_FAULT"] = step  # this process and its daemons end with the test
    with started(spec_of(stack), stack.directory) as mount:
        del os.environ["OVERLAYKIT_FAULT"]
        with pytest.raises(OSError, check=lambda error: error.errno in DIED):
            run(name, mount.target)
        by = signal.SIGXFSZ if step.startswith(faults.DATA) else signal.SIGKILL
        mount.process.wait_for_end()
        assert mount.process.status == -by
