"""Applying what a view has changed to its layer: the tree of the view, and back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace as changed

import pytest

from overlaykit.changes import applying, run
from overlaykit.changes.model import STATE
from overlaykit.changes.run import (
    NotApplied,
    NotThere,
    NotUndone,
    UpperGone,
    UpperInUse,
    UpperMounted,
    UpperMoves,
)
from overlaykit.changes.selection import InDeleted, NotAChange
from overlaykit.changes.state import CutOff, NothingApplied
from overlaykit.changes.target import Fixed

from ..overlay.inside import as_root
from ..posix.table import Device, Dir, Fifo, File, Layer, Link, Symlink
from .application import Picture, apply, at_step, copy, killed, picture, request, resume
from .workspace import Workspace

FS_IOC_SETFLAGS = 0x40086602

OLD = 10**18
"""A time in 2001, in nanoseconds since the epoch."""

TREE: Layer = {
    "a": File(b"a", mtime_ns=OLD),
    "b": File(b"b", mode=0o640),
    "gone": Dir(),
    "gone/x": File(b"x"),
    "gone/y": Dir(mode=0o700),
    "gone/y/z": File(b"z"),
    "moved": Dir(mode=0o750),
    "moved/in": File(b"in"),
    "moved/deep": Dir(),
    "moved/deep/file": File(b"deep"),
    "one": File(b"one"),
    "two": Link("one"),
    "link": Symlink("a"),
    "swap1": Dir(),
    "swap1/1": File(b"1"),
    "swap2": Dir(),
    "swap2/2": File(b"2"),
    "type": Dir(),
    "type/t": File(b"t"),
    "times": Dir(mtime_ns=OLD),
    "times/t": File(b"t", mtime_ns=OLD),
    "same": File(b"same", xattrs={"user.kept": b"yes"}),
}


def change_all(unprivileged: bool) -> None:
    """All kinds of changes, in the current directory."""
    write("a", b"changed")
    os.chmod("b", 0o600)
    shutil.rmtree("gone")
    os.makedirs("new/inner")
    write("new/inner/file", b"new")
    os.link("new/inner/file", "new/again")
    os.chmod("new", 0o711)
    os.symlink("inner/file", "new/link")
    os.mkfifo("new/fifo")
    with open("new/holes", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"data")
    os.setxattr("new/inner/file", "user.x", b"1")
    os.unlink("link")
    os.symlink("b", "link")
    shutil.rmtree("type")
    write("type", b"a file now")
    os.setxattr("times", "user.d", b"d")
    os.utime("times/t", ns=(OLD, OLD + 1))
    os.setxattr("same", "user.more", b"1")
    if unprivileged:  # the kernel renames no directory of a lower there
        return
    os.rename("moved", "renamed")
    write("renamed/in", b"other")
    write("renamed/added", b"added")
    os.rename("swap1", "swap")
    os.rename("swap2", "swap1")
    os.rename("swap", "swap2")
    os.rename("one", "three")
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown("b", 1, 2)
    write("program", b"#!")
    os.chmod("program", 0o4755)


@pytest.mark.parametrize("consumes", [True, False])
def test_the_layer_becomes_what_the_view_showed_and_what_it_was(
    workspace: Workspace, consumes: bool
) -> None:
    (lower,) = [workspace.add(TREE)]
    before = picture(lower)
    with workspace.mounted() as view:
        change_all(workspace.unprivileged)
        wanted = picture(view)
    upper = picture(workspace.upper)
    asked = request(workspace, consumes=consumes)
    dry = apply(lower, asked, dry_run=True)
    same(picture(lower), before)
    assert not os.path.lexists(os.path.join(lower, os.fsdecode(STATE)))
    for _ in range(2):
        assert apply(lower, asked) == dry
        same(picture(lower), wanted)
        assert bool(os.listdir(workspace.upper)) != consumes
        assert os.stat(f"{lower}/new/holes").st_blocks * 512 < 1 << 18
        applying.undo(lower)
        same(picture(lower), before)
        same(picture(workspace.upper), upper)
    assert apply(lower, asked) == dry
    assert applying.drop(lower) == 1
    same(picture(lower), wanted)
    assert not os.path.lexists(os.path.join(lower, os.fsdecode(STATE)))


@pytest.mark.parametrize("to_copy", [False, True])
def test_a_layer_in_a_container_becomes_what_the_view_showed_and_what_it_was(
    workspace: Workspace, to_copy: bool
) -> None:
    """The root of a container is the kernel's overlayfs, which renames no directory of its lowers."""
    target = workspace.add_as_in_container(TREE)
    if to_copy:
        workspace.lowers[0] = f"{target}.copy"
        copy(target, workspace.lowers[0])
    before = picture(target).without_links()
    with workspace.mounted() as view:
        change_all(workspace.unprivileged)
        shutil.rmtree("swap2")
        write("swap2", b"a file now")
        os.mkdir("gone")
        write("gone/other", b"other")
        wanted = picture(view).without_links()
    asked = request(workspace, consumes=False)
    dry = apply(target, asked, dry_run=True)
    for _ in range(2):
        assert apply(target, asked) == dry
        assert not dry.conflicts
        same(picture(target).without_links(), wanted)
        applying.undo(target)
        same(picture(target).without_links(), before)


def test_a_copy_of_the_layer_becomes_what_the_view_showed(workspace: Workspace) -> None:
    lower = workspace.add(TREE)
    before = picture(lower)
    target = lower + ".copy"
    copy(lower, target)
    with workspace.mounted() as view:
        change_all(workspace.unprivileged)
        wanted = picture(view)
    assert not apply(target, request(workspace, consumes=False)).conflicts
    same(picture(target), wanted)
    same(picture(lower), before)
    applying.undo(target)
    same(picture(target), before)


def test_a_view_goes_on_after_its_changes_were_applied(workspace: Workspace) -> None:
    lower = workspace.add(TREE)
    with workspace.mounted():
        write("a", b"first")
        os.rename("b", "c")
    assert not apply(lower, request(workspace)).conflicts
    with workspace.mounted() as view:
        assert read("a") == b"first"
        assert not os.path.lexists("b")
        write("a", b"second")
        os.unlink("c")
        wanted = picture(view)
    assert not apply(lower, request(workspace)).conflicts
    wanted.files.pop(os.fsdecode(STATE), None)
    assert without_state(picture(lower).files) == without_state(wanted.files)
    applying.undo(lower)
    assert read(f"{lower}/a") == b"first"
    with pytest.raises(UpperInUse):  # with what was taken back
        applying.undo(lower)
    for name in os.listdir(workspace.upper):
        os.unlink(f"{workspace.upper}/{name}")
    applying.undo(lower)
    assert read(f"{lower}/a") == b"a"
    with pytest.raises(NothingApplied):
        applying.undo(lower)


def test_only_the_paths_that_are_named_are_applied(workspace: Workspace) -> None:
    lower = workspace.add({"d": Dir(), "d/a": File(b"a"), "d/b": File(b"b"), "c": File(b"c")})
    before = picture(lower)
    with workspace.mounted():
        write("d/a", b"changed")
        os.unlink("d/b")
        write("c", b"changed")
        os.makedirs("e/f")
        write("e/f/g", b"g")
        write("e/other", b"other")
    outcome = apply(lower, request(workspace, "d/a", "/e/f", consumes=False))
    assert [one.path for one in outcome.written] == ["d/a", "e", "e/f", "e/f/g"]
    assert sorted(os.listdir(os.path.join(lower, "d"))) == ["a", "b"]
    assert read(os.path.join(lower, "c")) == b"c"
    assert os.listdir(os.path.join(lower, "e")) == ["f"]
    applying.undo(lower)
    same(picture(lower), before)
    with pytest.raises(NotAChange, match="no/such"):
        apply(lower, request(workspace, "no/such", consumes=False))


def test_a_path_in_a_deleted_directory_is_refused(workspace: Workspace) -> None:
    lower = workspace.add({"d": Dir(), "d/a": File(b"a")})
    with workspace.mounted():
        shutil.rmtree("d")
    with pytest.raises(InDeleted, match="d/a"):
        apply(lower, request(workspace, "d/a", consumes=False))


CHANGES_BELOW: dict[str, Callable[[str], object]] = {
    "content": lambda top: write(f"{top}/a", b"theirs"),
    "mode": lambda top: os.chmod(f"{top}/a", 0o755),
    "another file": lambda top: replace(f"{top}/a", b"theirs"),
    "gone": lambda top: os.unlink(f"{top}/a"),
    "new": lambda top: write(f"{top}/made", b"theirs"),
    "in a deleted directory": lambda top: write(f"{top}/gone/made", b"theirs"),
    "deep in a deleted directory": lambda top: write(f"{top}/gone/deep/x", b"theirs"),
    "directory gone": lambda top: shutil.rmtree(f"{top}/kept"),
    "directory is a file": lambda top: (shutil.rmtree(f"{top}/kept"), write(f"{top}/kept", b"f")),
}


UNSEEN = ("gone", "directory gone")
"""What only the origin of a copy tells, which the kernel's overlayfs does not store in a user namespace."""


@pytest.mark.parametrize("name", CHANGES_BELOW)
@pytest.mark.parametrize("to_copy", [False, True])
def test_no_byte_of_either_side_is_lost_without_a_word(
    workspace: Workspace, name: str, to_copy: bool
) -> None:
    lower = workspace.add(
        {
            "a": File(b"a"),
            "gone": Dir(),
            "gone/deep": Dir(),
            "gone/deep/x": File(b"x"),
            "kept": Dir(),
            "kept/k": File(b"k"),
            "other": File(b"other"),
        }
    )
    target = lower
    if to_copy:
        target = lower + ".copy"
        copy(lower, target)
    with workspace.mounted():
        write("a", b"ours of the view")
        write("made", b"made in the view")
        shutil.rmtree("gone")
        write("kept/new", b"new in the view")
        write("other", b"changed in the view")
    wait_for_another_time(target)
    CHANGES_BELOW[name](target)
    before = picture(target)

    outcome = apply(target, request(workspace, consumes=False))
    if name in UNSEEN and not to_copy and has_no_origins(workspace):
        assert read(f"{target}/a") == b"ours of the view"  # which has displaced nothing
        return
    assert len(outcome.conflicts) == 1
    same(picture(target), before)

    outcome = apply(target, request(workspace, choice="ours", consumes=False))
    assert len(outcome.skipped) == 1
    kept = picture(target)
    assert read(f"{target}/other") == b"changed in the view"
    top = outcome.skipped[0].path
    for path, shown in before.files.items():
        if path == top or path.startswith(top + "/"):
            assert kept.files[path] == shown
    applying.undo(target)
    same(picture(target), before)

    os.utime(workspace.upper)
    outcome = apply(target, request(workspace, choice="theirs", consumes=False))
    assert read(f"{target}/a") == b"ours of the view"
    assert read(f"{target}/made") == b"made in the view"
    assert read(f"{target}/kept/new") == b"new in the view"
    assert not os.path.lexists(f"{target}/gone")
    applying.undo(target)
    same(picture(target), before)


def test_both_sides_may_have_made_the_same_change(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(b"a"), "b": File(b"b")})
    with workspace.mounted():
        write("a", b"same")
        os.unlink("b")
        write("c", b"c")
    wait_for_another_time(lower)
    write(f"{lower}/a", b"same")
    os.unlink(f"{lower}/b")
    outcome = apply(lower, request(workspace, consumes=False))
    assert [one.path for one in outcome.written] == ["c"]


def test_what_was_changed_since_is_not_taken_back_unasked(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(b"a"), "b": File(b"b")})
    with workspace.mounted():
        write("a", b"view")
        os.unlink("b")
    apply(lower, request(workspace))
    write(f"{lower}/a", b"after")
    changed = picture(lower)
    with pytest.raises(NotUndone, match="a: it was changed"):
        applying.undo(lower)
    same(picture(lower), changed)
    applying.undo(lower, force=True)
    assert read(f"{lower}/a") == b"a"
    assert read(f"{workspace.upper}/a") == b"after"  # no byte is lost


def test_a_deleted_name_that_is_taken_again_is_not_taken_back(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(b"a"), "b": File(b"b")})
    with workspace.mounted():
        write("a", b"view")
        os.unlink("b")
    apply(lower, request(workspace))
    write(f"{lower}/b", b"after")
    undo_refused(lower, "b")
    os.unlink(f"{lower}/b")
    applying.undo(lower)
    assert read(f"{lower}/b") == b"b"


def test_a_deleted_directory_in_a_container_is_not_taken_back_over_another(
    workspace: Workspace,
) -> None:
    lower = workspace.add_as_in_container({"d": Dir(mode=0o500), "d/e": Dir(), "d/e/f": File(b"f")})
    before = picture(lower)
    with workspace.mounted():
        os.chmod("d", 0o700)
        shutil.rmtree("d")
    apply(lower, request(workspace))
    os.mkdir(f"{lower}/d")
    undo_refused(lower, "d")
    os.rmdir(f"{lower}/d")
    applying.undo(lower)
    same(picture(lower), before)


def test_an_upper_with_new_changes_gets_no_old_ones_back(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(b"a")})
    with workspace.mounted():
        write("a", b"view")
    apply(lower, request(workspace))
    with workspace.mounted():
        write("a", b"again")
    with pytest.raises(UpperInUse):
        applying.undo(lower)
    assert read(f"{lower}/a") == b"view"


def test_overlay_attributes_stay_out_of_the_layer(workspace: Workspace) -> None:
    lower = workspace.add(TREE)
    with workspace.mounted():
        change_all(workspace.unprivileged)
    apply(lower, request(workspace))
    applying.drop(lower)
    for above, directories, files in os.walk(lower):
        for name in ("", *directories, *files):
            path = os.path.join(above, name)
            assert not [
                one for one in os.listxattr(path, follow_symlinks=False) if ".overlay." in one
            ]


@as_root
def test_what_gives_rights_is_listed(workspace: Workspace) -> None:
    lower = workspace.add({"old": File(b"old", mode=0o4755), "plain": File(b"plain")})
    with workspace.mounted():
        write("program", b"#!")
        os.chmod("program", 0o6755)
        os.chmod("plain", 0o4755)
        write("able", b"#!")
        os.setxattr("able", "security.capability", bytes.fromhex("0100000200040000" + "00" * 12))
        os.mknod("device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.chmod("old", 0o4711)
    outcome = apply(lower, request(workspace))
    assert [(one.path, one.what) for one in outcome.notable] == [
        ("able", "capabilities"),
        ("device", "device"),
        ("plain", "set-user-ID"),
        ("program", "set-user-ID"),
        ("program", "set-group-ID"),
    ]
    assert os.lstat(f"{lower}/program").st_mode & 0o7777 == 0o6755
    assert os.getxattr(f"{lower}/able", "security.capability")


def test_a_hard_link_to_a_file_of_the_layer_is_one_there(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(b"a", mtime_ns=OLD), "p": Fifo(), "d": Dir()})
    with workspace.mounted() as view:
        os.link("a", "d/b")
        wanted = picture(view)
    before = picture(lower)
    apply(lower, request(workspace))
    if not has_no_origins(workspace):  # else the view shows two files
        same(picture(lower), wanted)
    assert os.stat(f"{lower}/a").st_ino == os.stat(f"{lower}/d/b").st_ino
    applying.undo(lower)
    same(picture(lower), before)


@as_root
def test_all_names_of_a_changed_file_change(workspace: Workspace) -> None:
    """The index makes them names of one file also where the upper has one of them alone."""
    lower = workspace.add(
        {"a": File(b"a"), "d": Dir(), "d/b": Link("a"), "n": Device(1, 3), "m": Link("n")}
    )
    before = picture(lower)
    with workspace.mounted() as view:
        write("a", b"changed")
        os.chmod("n", 0o600)
        wanted = picture(view)
    assert not apply(lower, request(workspace)).conflicts
    same(picture(lower), wanted)
    applying.undo(lower)
    same(picture(lower), before)


def test_a_symlink_in_place_of_a_directory_leads_nowhere(workspace: Workspace) -> None:
    """Swapped in between the check and the step."""
    lower = workspace.add({"d": Dir(), "d/a": File(b"a"), "e": Dir()})
    outside = lower + ".outside"
    os.mkdir(outside)
    write(f"{outside}/a", b"outside")
    with workspace.mounted():
        write("d/a", b"view")
        write("e/x", b"view")

    def swap() -> None:
        os.rename(f"{lower}/d", f"{lower}/hidden")
        os.symlink(outside, f"{lower}/d")

    outcome = interrupted(workspace, lower, swap)
    assert [one.path for one in outcome.conflicts] == ["d"]
    assert os.listdir(outside) == ["a"]
    assert read(f"{outside}/a") == b"outside"
    assert read(f"{lower}/hidden/a") == b"a"
    assert os.listdir(f"{lower}/e") == []


def test_a_directory_swapped_between_two_files_of_it_is_as_it_was(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = workspace.add({"d": Dir(), "d/a": File(b"a")})
    outside = lower + ".outside"
    os.mkdir(outside)
    write(f"{outside}/a", b"outside")
    with workspace.mounted():
        write("d/a", b"view")
        write("d/b", b"view")

    def reach(_: str) -> None:
        if not os.path.lexists(f"{lower}/hidden") and read(f"{lower}/d/a") == b"view":
            assert not os.path.exists(f"{lower}/d/b")
            os.rename(f"{lower}/d", f"{lower}/hidden")
            os.symlink(outside, f"{lower}/d")

    monkeypatch.setattr(run, "reach", reach)
    outcome = apply(lower, request(workspace))
    assert [one.path for one in outcome.conflicts] == ["d"]
    assert (os.listdir(outside), read(f"{outside}/a")) == (["a"], b"outside")
    assert (os.listdir(f"{lower}/hidden"), read(f"{lower}/hidden/a")) == (["a"], b"a")
    upper = f"{workspace.upper}/d"
    assert {name: read(f"{upper}/{name}") for name in os.listdir(upper)} == {
        "a": b"view",
        "b": b"view",
    }


@pytest.mark.parametrize("kind", ["write", "replace", "make", "in deleted", "in a container"])
def test_a_writer_between_check_and_step_loses_nothing(workspace: Workspace, kind: str) -> None:
    add = workspace.add_as_in_container if kind == "in a container" else workspace.add
    lower = add({"a": File(b"a"), "gone": Dir(), "gone/x": File(b"x"), "z": File(b"z")})
    with workspace.mounted():
        write("a", b"view")
        shutil.rmtree("gone")
        write("new", b"view")
        write("z", b"view")
    writers = {
        "write": lambda: write(f"{lower}/a", b"writer"),
        "replace": lambda: replace(f"{lower}/a", b"writer"),
        "make": lambda: write(f"{lower}/new", b"writer"),
        "in deleted": lambda: write(f"{lower}/gone/made", b"writer"),
        "in a container": lambda: write(f"{lower}/gone/made", b"writer"),
    }

    def write_below() -> None:
        wait_for_another_time(lower)
        writers[kind]()
        written.append(picture(lower))

    written: list[object] = []
    outcome = interrupted(workspace, lower, write_below)
    assert len(outcome.conflicts) == 1
    assert [without_times(one) for one in written] == [without_times(picture(lower))]
    assert sorted(os.listdir(workspace.upper)) == ["a", "gone", "new", "z"]


def test_a_failure_in_the_middle_is_taken_back(workspace: Workspace) -> None:
    lower = workspace.add(TREE)
    with workspace.mounted():
        change_all(workspace.unprivileged)
    before, upper = picture(lower), picture(workspace.upper)
    with pytest.MonkeyPatch.context() as patch:
        count = 0

        def fail(step: str) -> None:
            nonlocal count
            count += step == "apply.step"
            if count == 12:
                count += 1
                raise OSError(28, os.strerror(28))

        patch.setattr(run, "reach", fail)
        with pytest.raises(NotApplied, match="No space left on device: nothing is applied"):
            apply(lower, request(workspace))
    same(picture(lower), before)
    same(picture(workspace.upper), upper)
    assert not os.path.lexists(os.path.join(lower, os.fsdecode(STATE)))


def test_nothing_is_applied_beside_what_was_cut_off(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(b"a")})
    with workspace.mounted():
        write("a", b"view")
    assert killed(lambda: apply(lower, request(workspace)), at_step("apply.step:2"))
    with pytest.raises(CutOff):
        apply(lower, request(workspace))
    with pytest.raises(CutOff):
        applying.drop(lower)
    assert not resume(lower).conflicts
    assert read(f"{lower}/a") == b"view"
    with pytest.raises(NothingApplied, match="nothing to finish"):
        resume(lower)


def test_an_upper_without_changes_hides_no_application_from_undo(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(b"a")})
    with workspace.mounted():
        write("a", b"view")
    apply(lower, request(workspace))
    assert not apply(lower, request(workspace)).written
    applying.undo(lower)
    assert read(f"{lower}/a") == b"a"
    assert read(f"{workspace.upper}/a") == b"view"


def test_changes_are_not_moved_while_a_mount_shows_their_upper(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(b"a")})
    with workspace.mounted():
        write("a", b"view")
        before = os.listdir(lower)
        with pytest.raises(UpperMounted):
            apply(lower, request(workspace))
        assert os.listdir(lower) == before
        assert read("a") == b"view"
    assert read(f"{lower}/a") == b"a"
    apply(lower, request(workspace))
    with workspace.mounted():
        with pytest.raises(UpperMounted):
            applying.undo(lower)
        assert read("a") == b"view"
    applying.undo(lower)
    assert read(f"{lower}/a") == b"a"


COPIES: dict[str, list[str]] = {
    "cp -a": ["cp", "-a", "{0}", "{1}"],
    "cp -r": ["cp", "-r", "{0}", "{1}"],
    "tar": ["sh", "-c", "mkdir {1} && tar -C {0} -c . | tar -C {1} -x"],
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copied_upper_overwrites_no_later_edit_of_the_layer(
    workspace: Workspace, way: str
) -> None:
    """Also if the view goes on in the copy, whose root has a later time of modification then."""
    lower = workspace.add({"a": File(b"a"), "b": File(b"b"), "c": File(b"c"), "d": File(b"d")})
    with workspace.mounted():
        write("a", b"view")
        replace("b", b"view")
        os.unlink("c")
    wait_for_another_time(lower)
    for name in "abc":
        write(f"{lower}/{name}", b"edited")
    wait_for_another_time(lower)
    copied = workspace.upper + ".copy"
    subprocess.run([one.format(workspace.upper, copied) for one in COPIES[way]], check=True)
    workspace.upper = copied
    if workspace.system.name == "overlaykit":
        with workspace.mounted():
            write("later", b"view")
    else:  # the kernel refuses a copy over the same index
        write(f"{copied}/later", b"view")
    outcome = apply(lower, request(workspace))
    assert sorted(one.path for one in outcome.conflicts) == ["a", "b", "c"]
    assert [read(f"{lower}/{name}") for name in "abc"] == [b"edited"] * 3


def test_the_layer_is_as_the_view_began_after_a_copy_that_keeps_attributes(
    workspace: Workspace,
) -> None:
    lower = workspace.add({"a": File(b"a"), "b": File(b"b"), "c": File(b"c")})
    with workspace.mounted():
        write("a", b"view")
        replace("b", b"view")
        os.unlink("c")
    wait_for_another_time(lower)
    copy(workspace.upper, workspace.upper + ".copy")
    workspace.upper += ".copy"
    assert not apply(lower, request(workspace)).conflicts
    assert sorted(os.listdir(lower)) == [os.fsdecode(STATE), "a", "b"]


def test_an_edit_with_the_clock_set_back_is_not_overwritten(workspace: Workspace) -> None:
    """Each edit has an earlier change time than the view's begin."""
    lower = workspace.add({"a": File(b"a"), "b": File(b"b"), "c": File(b"c")})
    with workspace.mounted():
        write("a", b"view")
        replace("b", b"view")
        os.unlink("c")
    wait_for_another_time(lower)
    for name in "abc":
        write(f"{lower}/{name}", b"edited")
    wait_for_another_time(lower)
    name = f"{'user' if workspace.unprivileged else 'trusted'}.overlay.began"
    since, started = map(int, os.getxattr(workspace.upper, name).split())
    late = time.time_ns() - since
    # As if the clock had been this late at the begin, and was set right then.
    os.setxattr(workspace.upper, name, b"%d %d" % (since + late, started + late))
    outcome = apply(lower, request(workspace, consumes=False))
    assert sorted(one.path for one in outcome.conflicts) == ["a", "b", "c"]
    # It was set back for the edits alone: only what the copies have recorded tells.
    os.setxattr(workspace.upper, name, b"%d %d" % (since + late, started))
    outcome = apply(lower, request(workspace, consumes=False))
    exact = workspace.system.name == "overlaykit"
    assert [one.path for one in outcome.conflicts] == (["a"] if exact else [])


def test_a_conflict_that_was_decided_is_one_again_after_it_is_taken_back(
    workspace: Workspace,
) -> None:
    lower = workspace.add({"a": File(b"a")})
    with workspace.mounted():
        write("a", b"view")
    wait_for_another_time(lower)
    write(f"{lower}/a", b"edited")
    assert not apply(lower, request(workspace, choice="theirs")).conflicts
    applying.undo(lower)
    assert [one.path for one in apply(lower, request(workspace)).conflicts] == ["a"]
    assert read(f"{lower}/a") == b"edited"


@as_root
@pytest.mark.parametrize("flag", ["i", "a"])
@pytest.mark.parametrize("place", ["d", "."])
def test_a_directory_that_cannot_be_changed_is_named_before_anything_is_touched(
    workspace: Workspace, flag: str, place: str
) -> None:
    """A rename into an append-only directory cannot be taken back."""
    lower = workspace.add({"d": Dir(), "d/a": File(b"a"), "x": File(b"x")})
    with workspace.mounted():
        write("d/new", b"new")
        write("new", b"new")
        os.unlink("x")
    before = picture(lower)
    directory = os.path.realpath(os.path.join(lower, place))
    with flagged(directory, flag):
        for attempt in (apply, dry_run):
            with pytest.raises(Fixed, match=f"^{re.escape(directory)}: .*'chattr -{flag}'"):
                attempt(lower, request(workspace))
        same(picture(lower), before)
        assert STATE not in os.listdir(os.fsencode(lower))
    assert not apply(lower, request(workspace)).conflicts
    with flagged(directory, flag), pytest.raises(Fixed):
        applying.undo(lower)
    applying.undo(lower)
    same(picture(lower), before)


def dry_run(target: str, wanted: run.Request) -> applying.Outcome:
    return apply(target, wanted, dry_run=True)


@contextlib.contextmanager
def flagged(path: str, flag: str) -> Iterator[None]:
    """A file with a flag of chattr(1) (ioctl_iflags(2))."""
    fd = os.open(path, os.O_RDONLY)
    try:
        flags = struct.pack("l", {"i": 0x10, "a": 0x20}[flag])
        try:
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags)
        except OSError as error:
            pytest.skip(f"no such flags here: {error.strerror}")
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", 0))
        os.close(fd)


@as_root
def test_nothing_is_applied_that_moves_the_upper_itself(workspace: Workspace) -> None:
    lower = workspace.add({"d": Dir(), "d/a": File(b"a")})
    workspace.upper = f"{lower}/d/upper"
    os.mkdir(workspace.upper)
    os.mknod(f"{workspace.upper}/d", stat.S_IFCHR, 0)
    os.setxattr(workspace.upper, "trusted.overlay.began", b"%d 0" % time.time_ns())
    with pytest.raises(UpperMoves, match="move the upper away"):
        apply(lower, request(workspace))
    assert sorted(os.listdir(lower)) == ["d"]
    assert sorted(os.listdir(f"{lower}/d")) == ["a", "upper"]


@as_root
def test_a_mount_in_another_namespace_by_a_relative_path_is_found(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(b"a")})
    top = os.path.dirname(lower)
    for name in ("upper", "work", "target"):
        os.mkdir(f"{top}/{name}")
    options = f"lowerdir={os.path.basename(lower)},upperdir=upper,workdir=work"
    script = (
        f"mount -t overlay overlay -o {options} target && echo view >target/a && echo && read x"
    )
    shell = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script],
        cwd=top,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"\n"
        with pytest.raises(UpperMounted):
            apply(lower, request(workspace, choice="theirs"))
        assert read(f"{lower}/a") == b"a"
        shell.communicate(b"\n")
    apply(lower, request(workspace, choice="theirs"))
    assert read(f"{lower}/a") == b"view\n"


def test_an_upper_that_was_removed_gets_its_files_back(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(b"a")})
    with workspace.mounted():
        write("a", b"view")
    apply(lower, request(workspace))
    os.rename(workspace.upper, workspace.upper + ".away")
    with pytest.raises(UpperGone, match=r"mkdir -p .*--force"):
        applying.undo(lower)
    assert read(f"{lower}/a") == b"view"
    os.mkdir(workspace.upper)
    applying.undo(lower, force=True)
    assert read(f"{lower}/a") == b"a"
    assert read(f"{workspace.upper}/a") == b"view"


def test_an_upper_that_was_removed_once_applied_is_not_missed_by_undo(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(b"a")})
    with workspace.mounted():
        write("a", b"view")
    apply(lower, request(workspace).replace(is_last=True))
    os.rmdir(workspace.upper)
    applying.undo(lower)
    assert read(f"{lower}/a") == b"a"
    assert not os.path.exists(workspace.upper)


def test_what_an_upper_held_that_is_gone_is_dropped_if_that_is_forced(workspace: Workspace) -> None:
    lower = workspace.add({"d": Dir(), "d/a": File(b"a")})
    with workspace.mounted():
        write("d/a", b"view")
    apply(lower, request(workspace))
    os.rmdir(workspace.upper)
    applying.undo(lower, force=True)
    assert read(f"{lower}/d/a") == b"a"
    assert not os.path.exists(workspace.upper)
    assert STATE not in os.listdir(os.fsencode(lower))


@pytest.mark.parametrize("way", ["again", "undo", "resume"])
@pytest.mark.parametrize("step", ["apply.made", "apply.staged"])
def test_nothing_stays_beside_an_upper_on_another_file_system(
    workspace: Workspace, step: str, way: str
) -> None:
    lower = workspace.add({"a": File(b"a")})
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        workspace.upper = f"{elsewhere}/upper"
        os.mkdir(workspace.upper)
        write(f"{workspace.upper}/new", b"new")
        assert killed(lambda: apply(lower, request(workspace)), at_step(step))
        match way:
            case "again":
                apply(lower, request(workspace))
            case "resume":
                resume(lower)
        applying.undo(lower)
        assert os.listdir(elsewhere) == ["upper"]
        assert read(f"{workspace.upper}/new") == b"new"
    assert os.listdir(lower) == ["a"]


def undo_refused(lower: str, name: str) -> None:
    """An application is not taken back, with or without force: the name has something else now."""
    changed = picture(lower)
    for force, refused in ((False, NotUndone), (True, NotThere)):
        with pytest.raises(refused, match=f"{name}: "):
            applying.undo(lower, force=force)
        same(picture(lower), changed)


def same(found: Picture, wanted: Picture) -> None:
    ours, theirs = set(found.lines()), set(wanted.lines())
    assert (sorted(ours - theirs), sorted(theirs - ours)) == ([], [])


def interrupted(workspace: Workspace, lower: str, between: Callable[[], None]) -> applying.Outcome:
    """Apply, with `between` called between the check of everything and the first step."""
    with pytest.MonkeyPatch.context() as patch:

        def reach(step: str) -> None:
            if step == "apply.planned":
                between()

        patch.setattr(applying, "reach", reach)
        return apply(lower, request(workspace))


def has_no_origins(workspace: Workspace) -> bool:
    return workspace.unprivileged and workspace.system.name == "kernel"


def wait_for_another_time(directory: str) -> None:
    """Until the clock of the file system has gone on."""
    path = f"{directory}.clock"
    write(path, b"")
    first = os.stat(path).st_ctime_ns
    while os.stat(path).st_ctime_ns == first:
        time.sleep(0)
        os.utime(path)
    os.unlink(path)


def without_state(files: dict[str, object] | object) -> dict[str, object]:
    assert isinstance(files, dict)
    return {path: one for path, one in files.items() if not path.startswith(os.fsdecode(STATE))}


def without_times(one: object) -> object:
    assert isinstance(one, Picture)
    return {path: changed(shown, mtime_ns=0) for path, shown in one.files.items()}


def write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def replace(path: str, content: bytes) -> None:
    write(path + ".tmp", content)
    os.rename(path + ".tmp", path)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
