"""Generated programs on real mounts: applied to a copy of the lowers, they make the tree that the view showed."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Container, Iterator
from dataclasses import replace

import pytest

from overlaykit.changes import applying
from overlaykit.changes.applying import Outcome
from overlaykit.changes.run import Request
from overlaykit.changes.state import NothingApplied

from ..oracle.comparison import Directories
from ..oracle.program import Program
from ..posix.sandbox import Sandbox
from ..posix.systems import KernelOverlay, Overlaykit, Stack, System
from .application import Picture, apply, copy, picture
from .generated import UNPRIVILEGED, after, check, of_lowers, run

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
        asked = _request(stack)
        outcome = apply(target, asked)
        yield from (f"conflict: {one.path}: {one.reason}" for one in outcome.conflicts)
        yield from _difference("applied", picture(target), wanted)
        if outcome.written:
            applying.undo(target)
            yield from _difference("undone", picture(target), before)

    check(isolated, directory, wrong, examples=8)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda one: one.name)
@pytest.mark.one_in(2)
def test_no_byte_of_the_view_or_the_host_is_lost_without_being_named(
    system: System, isolated: Sandbox, directory: str
) -> None:
    """The second half of each program changes the target while the view is there."""

    def wrong(program: Program, stack: Stack, place: Directories) -> Iterator[str]:
        target = os.path.join(directory, "one", "copied")
        of_lowers(stack, place, lambda top: copy(top, target))
        before = picture(target)
        half = len(program.operations) // 2
        first = replace(program, operations=program.operations[:half])
        view = after(first, system, stack, place.target, lambda top: _signed(top, before, "view"))
        os.chdir(target)
        run(program.operations[half:])
        host = _signed(target, before, "host")
        asked = _request(stack)
        outcome = apply(target, asked)
        if outcome.conflicts:
            yield from _difference("refused", picture(target), host)
            for choice in ("ours", "theirs"):
                chosen = apply(target, asked.replace(choice=choice))
                yield from _lost(choice, chosen, before, view, host, picture(target))
                # Times of directories alone are no change.
                with contextlib.suppress(NothingApplied):
                    applying.undo(target)
                yield from _difference("undone", picture(target), host)
        else:
            yield from _lost("applied", outcome, before, view, host, picture(target))

    check(isolated, directory, wrong, examples=8)


def _request(stack: Stack) -> Request:
    assert stack.upper is not None
    return Request(
        upper=os.fsdecode(stack.upper),
        lowers=tuple(map(os.fsdecode, stack.lowers)),
        consumes=False,
    )


def _signed(top: str, before: Picture, by: str) -> Picture:
    """What is in a directory, with a line of its own in each file that is not as it was, and in half of the others."""
    for path, shown in picture(top).files.items():
        line = f"{by} {path}\n"
        is_changed = shown != before.files.get(path)
        if stat.S_ISREG(shown.mode) and (is_changed or zlib.crc32(line.encode()) % 2):
            with open(os.path.join(top, path), "a", encoding="ascii") as file:
                file.write(line)
    return picture(top)


def _lost(
    what: str, outcome: Outcome, before: Picture, view: Picture, host: Picture, now: Picture
) -> Iterator[str]:
    """Data that one side wrote, and that are gone though no conflict names them."""
    named = {one.path for one in (*outcome.skipped, *outcome.overwritten)}
    named |= {one.old_path for one in outcome.written if one.path in named and one.old_path}
    left = {shown.data for shown in now.files.values()}
    for side in (view, host):
        for path, shown in side.files.items():
            was = before.files.get(path)
            is_written = stat.S_ISREG(shown.mode) and (was is None or was.data != shown.data)
            if is_written and shown.data not in left and not _is_named(path, named):
                yield f"{what}: lost {path} {shown}, named: {sorted(named)}"


def _is_named(path: str, named: Container[str]) -> bool:
    while path and path not in named:
        path = os.path.dirname(path)
    return path in named


def _difference(what: str, found: Picture, wanted: Picture) -> Iterator[str]:
    ours, theirs = set(found.lines()), set(wanted.lines())
    yield from (f"{what}: {line}" for line in sorted(ours - theirs))
    yield from (f"wanted: {line}" for line in sorted(theirs - ours))
