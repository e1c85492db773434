"""Generated programs on real mounts: applied to a copy of the lowers, they make the tree that the view showed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from overlaykit.changes import applying
from overlaykit.changes.run import Request

from ..oracle.comparison import Directories
from ..oracle.program import Program
from ..posix.sandbox import Sandbox
from ..posix.systems import KernelOverlay, Overlaykit, Stack, System
from .application import Picture, apply, copy, picture
from .generated import UNPRIVILEGED, after, check, of_lowers

SYSTEMS = [Overlaykit(UNPRIVILEGED), KernelOverlay(UNPRIVILEGED)]


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda one: one.name)
@pytest.mark.one_in(2)
def test_an_application_makes_the_tree_of_the_view_and_undo_the_one_before(
    system: System, isolated: Sandbox, directory: str
) -> None:
    def wrong(program: Program, stack: Stack, place: Directories) -> Iterator[str]:
        target = os.path.join(directory, "one", "copied")
        of_lowers(stack, place, lambda top: copy(top, target))
        before = picture(target)
        wanted = after(program, system, stack, place.target, picture)
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

    check(isolated, directory, wrong, examples=15)


def _difference(what: str, found: Picture, wanted: Picture) -> Iterator[str]:
    ours, theirs = set(found.lines()), set(wanted.lines())
    yield from (f"{what}: {line}" for line in sorted(ours - theirs))
    yield from (f"wanted: {line}" for line in sorted(theirs - ours))
