"""A crash while a whiteout of another form is made leaves the tree before or the tree after."""

from __future__ import annotations

import os
import signal
from typing import Final, Literal, TypeAlias

import pytest

from overlaykit.fuse.spec import MountOptions
from overlaykit.overlay.stack import MergeOptions as Opened

from ..fuse.mounted import spec_of, started
from ..overlay.inside import IDENTITIES
from ..overlay.seen import look_through
from ..overlay.stack import Stack
from .operations import OPERATIONS
from .recovered import below, lasting
from .scenarios import build, run, trees

Form: TypeAlias = Literal["xattr", "aufs"]
FORMS: Final[tuple[Form, ...]] = ("xattr", "aufs")

AUFS_MADE: Final = "whiteout.aufs_made"

DECISIVE: Final = {AUFS_MADE, "unlink.removed", "rmdir.covered", "create.opaque", "rename.moved"}
"""The steps within a change; the proofs run all."""

HIDING: Final = [
    (name, step)
    for name, operation in OPERATIONS.items()
    if name.startswith(("unlink", "rmdir", "mkdir", "symlink where", "rename"))
    if operation.prepare is None and not operation.root_only
    for step in (*operation.steps, AUFS_MADE)
    if step in DECISIVE or "OVERLAYKIT_PROOFS" in os.environ
]


@pytest.mark.parametrize("sandbox", IDENTITIES[:1], indirect=True)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "step"), HIDING)
@pytest.mark.one_in(5)
def test_a_crash_leaves_the_old_tree_or_the_new_one_in_every_form(
    stack: Stack, name: str, step: str, form: Form
) -> None:
    before, after = trees(stack, name)[name]
    build(stack, name)
    died = crash(stack, name, step, form)
    with stack.bare(options=Opened(userxattr=stack.unprivileged, whiteout=form)) as view:
        found = below(name, lasting(look_through(view)))
    assert found in ((before, after) if died else (after,))


def crash(stack: Stack, name: str, step: str, form: Form) -> bool:
    """Crash a daemon at the step of the operation. Returns: whether this form reaches the step."""
    os.environ["OVERLAYKIT_FAULT"] = step  # this process and its daemons end with the test
    options = MountOptions(userxattr=stack.unprivileged, whiteout=form)
    with started(spec_of(stack, options=options), stack.directory) as mount:
        del os.environ["OVERLAYKIT_FAULT"]
        try:
            run(name, mount.target)
        except OSError:
            mount.process.wait_for_end()
            return mount.process.status == -signal.SIGKILL
        mount.unmount()
        return False
