"""Generated programs on real mounts: applied to a copy of the lowers, they make the tree that the view showed.

`OVERLAYKIT_ORACLE_EXAMPLES` is the number of programs, with a new seed; the default is a few, with a fixed seed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from overlaykit.changes import applying
from overlaykit.changes.run import Request

from ..oracle.comparison import Directories
from ..oracle.operations import Slots, result_of
from ..oracle.program import Program, programs
from ..oracle.script import script
from ..posix.sandbox import Sandbox
from ..posix.systems import KernelOverlay, Overlaykit, Stack, System
from .application import Picture, apply, copy, picture

EXAMPLES = os.environ.get("OVERLAYKIT_ORACLE_EXAMPLES")
UNPRIVILEGED = os.geteuid() != 0
SYSTEMS = [KernelOverlay(UNPRIVILEGED), Overlaykit(UNPRIVILEGED)]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with contextlib.closing(Sandbox(unprivileged=UNPRIVILEGED)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def directory(sandbox: Sandbox) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="overlaykit-apply-", dir="/var/tmp") as directory:
        yield directory


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda one: one.name)
def test_an_application_makes_the_tree_of_the_view_and_undo_the_one_before(
    system: System, sandbox: Sandbox, directory: str
) -> None:
    @settings(
        max_examples=int(EXAMPLES or 15),
        derandomize=EXAMPLES is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs(unprivileged=UNPRIVILEGED))
    def agree(program: Program) -> None:
        wrong = sandbox.run(lambda: list(_wrong(program, system, directory)))
        if wrong:
            raise AssertionError("\n".join([*wrong, script(program, unprivileged=UNPRIVILEGED)]))

    agree()


def _wrong(program: Program, system: System, directory: str) -> Iterator[str]:
    """What is not as it should be, a line each; runs inside the sandbox."""
    place = Directories(os.path.join(directory, "one"), UNPRIVILEGED)
    place.build(program)
    try:
        stack = place.stack(program)
        target = os.path.join(directory, "one", "copied")
        _copy_lowers(stack, place, target)
        before = picture(target)
        wanted = _after(program, system, stack, place.target)
        assert stack.upper is not None
        asked = Request(
            upper=os.fsdecode(stack.upper),
            lowers=tuple(map(os.fsdecode, stack.lowers)),
            consumes=False,
        )
        outcome = apply(target, asked)
        yield from (f"conflict: {one.path}: {one.reason}" for one in outcome.conflicts)
        yield from _difference("applied", picture(target), wanted)
        if outcome.written:
            applying.undo(target)
            yield from _difference("undone", picture(target), before)
    finally:
        os.chdir("/")
        place.remove()


def _copy_lowers(stack: Stack, place: Directories, target: str) -> None:
    empty = [os.path.join(os.fsencode(place.directory), name) for name in (b"no-upper", b"no-work")]
    for path in empty:
        os.mkdir(path)
    reference = KernelOverlay(UNPRIVILEGED)
    reference.mount(Stack(stack.lowers, *empty), place.target)
    try:
        copy(os.fsdecode(place.target), target)
    finally:
        reference.unmount(place.target)


def _after(program: Program, system: System, stack: Stack, target: bytes) -> Picture:
    system.mount(stack, target)
    slots: Slots = {}
    try:
        os.chdir(target)
        for operation in program.operations:
            result_of(operation, slots)
        for fd in slots.values():
            os.close(fd)
        return picture(os.fsdecode(target))
    finally:
        os.chdir("/")
        system.unmount(target)


def _difference(what: str, found: Picture, wanted: Picture) -> Iterator[str]:
    ours, theirs = set(found.lines()), set(wanted.lines())
    yield from (f"{what}: {line}" for line in sorted(ours - theirs))
    yield from (f"wanted: {line}" for line in sorted(theirs - ours))
