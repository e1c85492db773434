"""A disk that is full in the middle of an application, and one whose power is cut: both trees are whole."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import Any

import pytest

from overlaykit import attributes
from overlaykit.changes import applying, run, staging, steps
from overlaykit.changes.model import STATE
from overlaykit.changes.run import NotApplied
from overlaykit.changes.state import NothingApplied

from ..crash.disks import PLENTY, Memory, image, memory, mounted_image
from ..overlay.inside import as_root
from ..posix.table import Dir, File
from .application import apply, picture, request, resume
from .test_apply import TREE, change_all, same, write
from .workspace import Workspace

SECONDS = 300.0
DISKS = {"mkfs.ext4 -q": 16, "mkfs.btrfs -q": 128}
"""The command that makes a file system, and the megabytes that it takes at least."""
EVERY = 1 if "OVERLAYKIT_PROOFS" in os.environ else 5
"""Of the moments at which the power is cut, each so many."""


@as_root
@pytest.mark.one_in(2)
@pytest.mark.parametrize("consumes", [True, False])
@pytest.mark.parametrize("kind", ["pages", "inodes"])
def test_a_full_disk_in_the_middle_leaves_the_layer_as_it_was(
    workspace: Workspace, kind: Any, consumes: bool
) -> None:
    """Each time it ends a bit later: in a copy, in the journal, or not at all."""
    directory = os.path.dirname(workspace.upper)
    with memory(f"{directory}/disk") as disk:
        workspace = moved(workspace, f"{directory}/disk")
        lower = workspace.add({**TREE, "big": File(b"big")})
        with workspace.mounted() as view:
            change_all(workspace.unprivileged)
            write("big", b"view" * 10_000)
            for number in range(30):
                write(f"new/{number}", b"data" * 1000)
            wanted = picture(view)
        before, upper = picture(lower), picture(workspace.upper)
        refused = 0
        for left in range(PLENTY):
            disk.leave(kind, left)
            try:
                outcome = apply(lower, request(workspace, consumes=consumes))
            except NotApplied as error:
                told = str(error)
            else:
                assert not outcome.conflicts
                break
            refused += 1
            assert "No space left on device: nothing is applied" in told
            same(picture(lower), before)
            same(picture(workspace.upper), upper)
            assert not os.path.lexists(os.path.join(lower, os.fsdecode(STATE)))
        assert refused > 3
        same(picture(lower), wanted)
        Memory(disk.path).leave(kind, PLENTY)
        applying.undo(lower)
        same(picture(lower), before)


@as_root
@pytest.mark.one_in(5)
@pytest.mark.parametrize("consumes", [True, False])
@pytest.mark.parametrize("ends", ["undo", "resume"])
@pytest.mark.parametrize("mkfs", DISKS)
def test_an_application_whose_power_is_cut_ends_whole(
    workspace: Workspace, ends: str, consumes: bool, mkfs: str
) -> None:
    """The disk is what was written to it until a moment: all names may be there, and no data that was not synced.

    fsync(2) of a journal that ext4 has written holds all renames before it; on btrfs it holds those of the file alone.
    """
    directory = os.path.dirname(workspace.upper)
    cuts: list[str] = []
    with image(directory, *mkfs.split(), megabytes=DISKS[mkfs]) as (file, disk):
        workspace = moved(workspace, disk)
        lower = workspace.add({**TREE, "d": Dir(), "d/file": File(b"old" * 3000)})
        os.sync()
        before = picture(lower)
        with workspace.mounted() as view:
            change_all(workspace.unprivileged)
            write("d/file", b"new" * 3000)
            os.makedirs("whole/inner")
            write("whole/inner/file", b"whole" * 2000)
            wanted = picture(view)
        count = 0

        def cut(step: str) -> None:
            nonlocal count
            count += 1
            if count % EVERY and step in ("apply.step", "apply.made"):
                return
            if count % 2 and "btrfs" not in mkfs:
                commit(disk)
            cuts.append(f"{directory}/{count}.{step}")
            shutil.copyfile(file, cuts[-1])

        with pytest.MonkeyPatch.context() as patch:
            for module in (applying, run, staging, steps):
                patch.setattr(module, "reach", cut)
            assert not apply(lower, request(workspace, consumes=consumes)).conflicts
        same(picture(lower), wanted)
    assert len(cuts) > 10
    for name in cuts:
        with mounted_image(name, disk):
            is_planned = not name.endswith(("begun", "made", "staged"))
            end(lower, undo=ends == "undo" or not is_planned)
            # Before the plan is on the disk, the view's own data may be lost with the power.
            same(picture(lower), wanted if is_planned and ends == "resume" else before)
        os.unlink(name)


@pytest.mark.parametrize("number", [1, 50])
@pytest.mark.parametrize("consumes", [True, False])
def test_an_application_syncs_as_often_for_many_files_as_for_one(
    workspace: Workspace, number: int, consumes: bool
) -> None:
    lower = workspace.add({f"{one}": File(b"old") for one in range(number)})
    with workspace.mounted():
        for one in range(number):
            write(f"{one}", b"new")
            os.mkdir(f"new{one}")
            write(f"new{one}/file", b"new")
    done: list[str] = []

    def note(what: str) -> None:
        if what != "step" or done[-1] != what:
            done.append(what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: note("fsync"))
        patch.setattr(attributes, "sync_file_system", lambda _: note("syncfs"))
        patch.setattr(run, "reach", lambda step: step == "apply.step" and note("step"))
        assert not apply(lower, request(workspace, consumes=consumes)).conflicts
    assert done == ["syncfs", "fsync", "step", "syncfs", "fsync"]


def end(lower: str, *, undo: bool) -> None:
    with contextlib.suppress(NothingApplied):
        if undo:
            applying.undo(lower)
        else:
            assert not resume(lower).conflicts


def commit(disk: str) -> None:
    """Write the journal of the file system, with all names, and not the data of other files."""
    with open(os.path.join(disk, "other"), "wb") as other:
        os.fsync(other.fileno())


def moved(workspace: Workspace, path: str) -> Workspace:
    return Workspace(path, workspace.system, unprivileged=workspace.unprivileged)
