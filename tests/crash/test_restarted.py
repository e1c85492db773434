"""A daemon that is killed at any step of any operation: the next one carries the operation out, once."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager

import pytest

from overlaykit.overlay import faults

from ..fuse.mounted import Mounted, spec_of, started
from ..overlay.inside import IDENTITIES
from ..overlay.seen import look_through
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix.table import Dir, File
from .operations import OPERATIONS
from .recovered import below, shown
from .scenarios import build, run, trees

DECISIVE = (
    "copyup.published",
    "create.published",
    "link.published",
    "unlink.removed",
    "rmdir.removed",
    "rename.moved",
    "rename.done",
)
"""The steps after which the operation is carried out, but not answered; the proofs run all."""

CASES = [
    (name, step)
    for name, operation in OPERATIONS.items()
    for step in operation.steps
    if not step.startswith(faults.DATA)
    if step in DECISIVE or "OVERLAYKIT_PROOFS" in os.environ
]


@pytest.mark.parametrize("sandbox", IDENTITIES[:1], indirect=True)
@pytest.mark.parametrize(("name", "step"), CASES)
@pytest.mark.one_in(4)
def test_an_operation_is_carried_out_once(stack: Stack, name: str, step: str) -> None:
    stack.metacopy = OPERATIONS[name].metacopy
    _, after = trees(stack, name)[name]
    build(stack, name)
    with _crashing(stack, step) as mount:
        run(name, mount.target)
        mount.unmount()
        assert _ends(mount, "signal 9") == 1
    assert below(name, shown(stack)) == after


def test_a_request_with_which_two_daemons_crash_fails_alone(stack: Stack) -> None:
    stack.add({"d": Dir(), "d/f": File(b"x"), "g": File(b"y")})
    with _crashing(stack, "rename.prepared:0") as mount:
        with open(mount.path("g"), "rb") as file:
            with refused(errno.EIO):
                os.rename(mount.path("g"), mount.path("moved"))
            assert file.read() == b"y"
        assert _ends(mount, "signal 6") == 2
        assert sorted(os.listdir(mount.target)) == ["d", "g"]
        os.unlink(mount.path("d/f"))
        mount.unmount()
    with stack.open() as view:
        assert sorted(look_through(view)) == ["", "d", "g"]


def _crashing(stack: Stack, step: str) -> AbstractContextManager[Mounted]:
    os.environ["OVERLAYKIT_FAULT"] = step  # this process and its daemons end with the test
    return started(spec_of(stack, restart=True), stack.directory)


def _ends(mount: Mounted, how: str) -> int:
    with open(mount.log_path, encoding="utf-8") as file:
        return sum(f"was ended by {how}" in line for line in file)
