"""An application that is killed at any step, or at any moment: it can be finished, and taken back."""

from __future__ import annotations

import contextlib
import os
import random
import time

import pytest

from overlaykit.changes import applying
from overlaykit.changes.model import STATE
from overlaykit.changes.state import NothingApplied

from .application import (
    BACKWARD,
    FORWARD,
    Kill,
    Picture,
    after,
    apply,
    at_step,
    killed,
    picture,
    request,
    resume,
)
from .test_apply import TREE, change_all, same
from .workspace import Workspace

SECONDS = 600.0

MOMENTS = 200 if "OVERLAYKIT_PROOFS" in os.environ else 10
EVERY = 1 if "OVERLAYKIT_PROOFS" in os.environ else 7
"""Of steps that come many times, each so many; each with `OVERLAYKIT_PROOFS`."""


class Killed:
    """A layer, an upper that changes all of it, and both trees.

    `in_container`: the layer is on the kernel's overlayfs.
    """

    def __init__(self, workspace: Workspace, *, consumes: bool, in_container: bool = False) -> None:
        self._in_container = in_container
        self.lower = workspace.add_as_in_container(TREE) if in_container else workspace.add(TREE)
        self.asked = request(workspace, consumes=consumes)
        self.before = self.picture(self.lower)
        with workspace.mounted() as view:
            change_all(workspace.unprivileged)
            self.wanted = self.picture(view)
        self.upper = self.picture(workspace.upper)

    def picture(self, path: str) -> Picture:
        found = picture(path)
        return found.without_links() if self._in_container else found

    def apply(self) -> None:
        assert not apply(self.lower, self.asked).conflicts

    def undo(self) -> None:
        applying.undo(self.lower)

    def end_of_application(self, by: Kill) -> bool:
        """Kill an application twice; take the first back, finish the second. Returns: whether the kill was reached."""
        reached = killed(self.apply, by)
        if reached:
            self.take_back()
            assert killed(self.apply, by)
            self.finish()
        self.take_back()
        return reached

    def end_of_undo(self, by: Kill) -> bool:
        """Kill what takes an application back twice; finish that, and then the application."""
        self.apply()
        reached = killed(self.undo, by)
        self.take_back()
        if reached:
            self.apply()
            assert killed(self.undo, by)
            self.finish()
            self.take_back()
        return reached

    def take_back(self) -> None:
        with contextlib.suppress(NothingApplied):  # it was killed before it began, or as it ended
            self.undo()
        self.is_like(self.before)
        same(self.picture(self.asked.upper), self.upper)
        assert not os.path.lexists(os.path.join(self.lower, os.fsdecode(STATE)))

    def finish(self) -> None:
        try:
            assert not resume(self.lower).conflicts
        except NothingApplied:  # it had ended before it was killed
            if self.picture(self.lower).lines() == self.before.lines():
                self.apply()
        self.is_like(self.wanted)

    def is_like(self, wanted: Picture) -> None:
        same(self.picture(self.lower), wanted)


@pytest.mark.parametrize("consumes", [True, False])
@pytest.mark.parametrize("step", FORWARD)
@pytest.mark.one_in(3)
def test_an_application_that_is_killed_at_a_step(
    workspace: Workspace, step: str, consumes: bool
) -> None:
    case = Killed(workspace, consumes=consumes)
    number = 1
    while case.end_of_application(at_step(f"{step}:{number}")):
        number += EVERY
    # Not every upper has attributes to remove. Directories are renamed.
    assert number > 1 or step in ("apply.stripped", "apply.removed")


@pytest.mark.parametrize("step", ["apply.removed", "apply.step", "apply.unstep"])
@pytest.mark.one_in(3)
def test_an_application_in_a_container_that_is_killed_at_a_step(
    workspace: Workspace, step: str
) -> None:
    case = Killed(workspace, consumes=True, in_container=True)
    ends = case.end_of_undo if step in BACKWARD else case.end_of_application
    number = 1
    while ends(at_step(f"{step}:{number}")):
        number += EVERY
    assert number > 1


@pytest.mark.parametrize("step", BACKWARD)
def test_an_undo_that_is_killed_at_a_step(workspace: Workspace, step: str) -> None:
    case = Killed(workspace, consumes=True)
    number = 1
    while case.end_of_undo(at_step(f"{step}:{number}")):
        number += EVERY
    assert number > 1


def test_an_application_that_is_killed_at_any_moment(workspace: Workspace) -> None:
    case = Killed(workspace, consumes=True)
    started = time.monotonic()
    case.apply()
    longest = time.monotonic() - started
    case.take_back()
    generator = random.Random(1)
    for _ in range(MOMENTS):
        killed(case.apply, after(generator.uniform(0.001, longest)))
        if generator.random() < 0.5:
            case.take_back()
        else:
            case.finish()
            killed(case.undo, after(generator.uniform(0.001, longest)))
            case.take_back()
