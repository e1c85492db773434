"""New directories that are moved into the layer whole: nothing is lost, nothing in them taken back unasked."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable

import pytest

from overlaykit.changes import applying
from overlaykit.changes.model import STATE
from overlaykit.changes.run import NotUndone

from ..overlay.inside import as_root
from ..posix.table import Dir, File
from .application import apply, picture, request
from .test_apply import read, same, write
from .workspace import Workspace


def make_new() -> None:
    """A new directory, in the current one."""
    os.makedirs("new/inner/deep")
    os.mkdir("new/empty")
    for name in ("a", "inner/b", "inner/deep/c"):
        write(f"new/{name}", name.encode())
    os.symlink("a", "new/link")
    os.link("new/a", "new/inner/again")


def test_a_new_directory_is_moved_by_one_rename(workspace: Workspace) -> None:
    lower = workspace.add({"old": File(b"old")})
    with workspace.mounted() as view:
        make_new()
        wanted = picture(view)
    before, upper = picture(lower), picture(workspace.upper)
    inodes = {path: os.lstat(f"{workspace.upper}/{path}").st_ino for path in ("new", "new/inner/b")}
    apply(lower, request(workspace))
    assert renamed(lower) == ["new"]
    same(picture(lower), wanted)
    assert {path: os.lstat(f"{lower}/{path}").st_ino for path in inodes} == inodes
    applying.undo(lower)
    same(picture(lower), before)
    same(picture(workspace.upper), upper)


def test_the_parts_are_moved_one_by_one_of_a_directory_with_a_marked_file(
    workspace: Workspace,
) -> None:
    lower = workspace.add({"old": File(b"old")})
    with workspace.mounted() as view:
        make_new()
        write("old", b"changed")
        os.rename("old", "new/inner/old")  # its copy says where it came from
        wanted = picture(view)
    before = picture(lower)
    apply(lower, request(workspace))
    same(picture(lower), wanted)
    assert "new/inner/deep" in renamed(lower)
    applying.undo(lower)
    same(picture(lower), before)


def test_a_directory_with_more_than_the_view_shows_brings_nothing_else(
    workspace: Workspace,
) -> None:
    lower = workspace.add({})
    with workspace.mounted() as view:
        make_new()
        wanted = picture(view)
    os.mkdir(f"{workspace.upper}/new/inner/{os.fsdecode(STATE)}")  # no change of a view
    apply(lower, request(workspace))
    wanted.files["new/inner"] = picture(lower).files["new/inner"]  # another time
    same(picture(lower), wanted)
    assert sorted(renamed(lower)) == [
        "new", "new/a", "new/empty", "new/inner", "new/inner/again", "new/inner/b",
        "new/inner/deep", "new/link",
    ]  # fmt: skip


def test_a_file_with_a_name_elsewhere_stays_one_file(workspace: Workspace) -> None:
    lower = workspace.add({"d": Dir(), "d/old": File(b"old")})
    with workspace.mounted() as view:
        make_new()
        os.link("new/inner/b", "d/other")
        wanted = picture(view)
    before = picture(lower)
    apply(lower, request(workspace))
    same(picture(lower), wanted)
    assert sorted(renamed(lower)) == ["d/other", "new"]
    applying.undo(lower)
    same(picture(lower), before)


@as_root
def test_what_gives_rights_in_a_new_directory_is_listed(workspace: Workspace) -> None:
    lower = workspace.add({})
    with workspace.mounted():
        make_new()
        os.chmod("new/inner/b", 0o4755)
    outcome = apply(lower, request(workspace))
    assert [(one.path, one.what) for one in outcome.notable] == [("new/inner/b", "set-user-ID")]
    assert renamed(lower) == ["new"]


def test_a_new_directory_without_the_right_to_write_is_applied_and_taken_back(
    workspace: Workspace,
) -> None:
    lower = workspace.add({})
    with workspace.mounted() as view:
        make_new()
        os.chmod("new/inner", 0o500)
        os.chmod("new", 0o555)
        wanted = picture(view)
    before, upper = picture(lower), picture(workspace.upper)
    apply(lower, request(workspace))
    same(picture(lower), wanted)
    applying.undo(lower)
    same(picture(lower), before)
    same(picture(workspace.upper), upper)


EDITS: dict[str, tuple[Callable[[str], object], str]] = {
    "written": (lambda top: write(f"{top}/inner/b", b"after"), "new/inner/b"),
    "added": (lambda top: write(f"{top}/inner/deep/more", b"after"), "new/inner/deep"),
    "deleted": (lambda top: os.unlink(f"{top}/inner/b"), "new/inner"),
    "mode": (lambda top: os.chmod(f"{top}/inner/deep/c", 0o600), "new/inner/deep/c"),
    "renamed": (lambda top: os.rename(f"{top}/inner/b", f"{top}/inner/x"), "new/inner"),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_was_changed_in_a_new_directory_is_not_taken_back_unasked(
    workspace: Workspace, name: str
) -> None:
    lower = workspace.add({})
    with workspace.mounted():
        make_new()
    apply(lower, request(workspace))
    edit, where = EDITS[name]
    edit(f"{lower}/new")
    changed = picture(lower)
    with pytest.raises(NotUndone, match=where):
        applying.undo(lower)
    same(picture(lower), changed)
    applying.undo(lower, force=True)
    assert os.listdir(lower) == []
    same_files = {path: one.data for path, one in picture(workspace.upper).files.items()}
    assert same_files == {path: one.data for path, one in changed.files.items()}  # no byte is lost


def test_what_was_applied_in_a_new_directory_may_change_again(workspace: Workspace) -> None:
    lower = workspace.add({"top": Dir(), "top/old": File(b"old")})
    asked = request(workspace).replace(within="top")
    with workspace.mounted():
        os.chdir("top")
        make_new()
    apply_within(lower, asked)
    with workspace.mounted():
        write("top/new/a", b"again")
        os.unlink("top/new/inner/b")
        shutil.rmtree("top/new/inner/deep")
    apply_within(lower, asked)
    assert read(f"{lower}/top/new/a") == b"again"
    assert os.listdir(f"{lower}/top/new/inner") == ["again"]


def apply_within(lower: str, asked: object) -> None:
    from overlaykit.changes.opening import open_directory
    from overlaykit.changes.read import Comparison
    from overlaykit.changes.run import Request

    assert isinstance(asked, Request)
    lowers = list(map(open_directory, asked.lowers))
    upper = open_directory(asked.upper)
    with Comparison.of_upper(upper, lowers, os.fsencode(asked.within)) as comparison:
        outcome = applying.apply(comparison, os.path.join(lower, asked.within), asked)
    assert not outcome.conflicts


def renamed(lower: str) -> list[str]:
    """What the last application has put in the target by a step of its own, in its order."""
    state = os.path.join(lower, os.fsdecode(STATE))
    last = max(filter(str.isdigit, os.listdir(state)), key=int)
    raw = read(f"{state}/{last}/journal")
    at = 0
    while True:
        length, checksum = (int.from_bytes(raw[at + i : at + i + 4], "little") for i in (0, 4))
        payload = raw[at + 8 : at + 8 + length]
        assert zlib.crc32(payload) == checksum
        if payload.startswith(b"["):
            steps = json.loads(payload)
            return [path for operation, root, path, *_ in steps if is_put(operation, root)]
        at += 8 + length


def is_put(operation: str, root: str) -> bool:
    return operation in ("move", "exchange") and root == "target"
