"""New directories that are moved into the layer whole: nothing is lost, nothing in them taken back unasked."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import zlib
from collections.abc import Callable

import pytest

from overlaykit import attributes
from overlaykit.changes import applying, planning, run, target
from overlaykit.changes.folding import Folding
from overlaykit.changes.model import STATE
from overlaykit.changes.run import NotUndone

from ..overlay.inside import as_root
from ..posix.behaviours.xattrs import CAPABILITY
from ..posix.table import Dir, File
from .application import apply, picture, request
from .test_apply import read, same, write
from .workspace import Workspace


def make_plain() -> None:
    """A new directory, in the current one, in which nothing needs a look of its own."""
    os.makedirs("new/inner/deep")
    os.mkdir("new/empty")
    for name in ("a", "inner/b", "inner/deep/c"):
        write(f"new/{name}", name.encode())
    os.symlink("a", "new/link")


def make_new() -> None:
    """The same with a file of two names."""
    make_plain()
    os.link("new/a", "new/inner/again")


def test_of_a_plain_new_directory_all_is_moved_by_one_rename_and_told(
    workspace: Workspace,
) -> None:
    lower = workspace.add({"old": File(b"old")})
    with workspace.mounted() as view:
        make_plain()
        os.mkfifo("new/inner/fifo")
        wanted = picture(view)
    before, upper = picture(lower), picture(workspace.upper)
    told = apply(lower, request(workspace), dry_run=True).written
    assert {one.path for one in told} == wanted.files.keys() - before.files.keys()
    assert apply(lower, request(workspace)).written == told
    assert renamed(lower) == ["new"]
    same(picture(lower), wanted)
    applying.undo(lower)
    same(picture(lower), before)
    same(picture(workspace.upper), upper)


def test_a_new_file_costs_few_calls(workspace: Workspace) -> None:
    """Of Python's functions and of system calls: 24, and 124 before new directories were taken as one."""

    def calls_of(count: int) -> int:
        os.makedirs(f"{workspace.upper}/new-{count}")
        for number in range(count):
            write(f"{workspace.upper}/new-{count}/{number}", b"new")
        counted = calls(lambda: apply(lower, request(workspace)))
        assert renamed(lower) == [f"new-{count}"]
        applying.drop(lower)
        return counted

    lower = workspace.add({})
    few, many = calls_of(10), calls_of(60)
    assert (many - few) / 50 < 40


def test_a_new_file_in_a_directory_of_the_layer_costs_few_calls(workspace: Workspace) -> None:
    """Of Python's functions and of system calls: 180, and 243 before the directory of a step was kept open."""

    def calls_of(count: int) -> int:
        os.makedirs(f"{workspace.upper}/d")
        for number in range(count):
            write(f"{workspace.upper}/d/{count}-{number}", b"new")
        counted = calls(lambda: apply(lower, request(workspace)))
        assert len(renamed(lower)) == count
        applying.drop(lower)
        return counted

    lower = workspace.add({"d": Dir()})
    few, many = calls_of(10), calls_of(60)
    assert (many - few) / 50 < 195


@as_root
@pytest.mark.parametrize("special", ["set-ID", "capability", "device", "linked", "marked"])
def test_a_new_directory_beside_what_needs_a_look_is_moved_whole(
    workspace: Workspace, special: str
) -> None:
    lower = workspace.add({"old": File(b"old")})
    with workspace.mounted() as view:
        make_plain()
        match special:
            case "set-ID":
                os.chmod("new/a", 0o4755)
            case "capability":
                os.setxattr("new/a", "security.capability", CAPABILITY)
            case "device":
                os.mknod("new/null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
            case "linked":
                os.link("new/a", "elsewhere")
            case "marked":
                write("old", b"changed")
                os.rename("old", "new/old")
        wanted = picture(view)
    before = picture(lower)
    outcome = apply(lower, request(workspace))
    same(picture(lower), wanted)
    assert {"new", "new/a", "new/inner/deep/c"} <= {one.path for one in outcome.written}
    notable = {"set-ID": "set-user-ID", "capability": "capabilities", "device": "device"}
    assert [one.what for one in outcome.notable] == [
        what for name, what in notable.items() if name == special
    ]
    assert not any(path.startswith("new/inner/") for path in renamed(lower))
    applying.undo(lower)
    same(picture(lower), before)


def test_new_directories_in_each_other_however_many_are_applied(workspace: Workspace) -> None:
    lower = workspace.add({})
    deep = os.path.join(workspace.upper, *["d"] * 120)
    os.makedirs(deep)
    write(os.path.join(deep, "file"), b"new")
    wanted = picture(workspace.upper)
    apply(lower, request(workspace))
    same(picture(lower), wanted)


@as_root
def test_a_new_directory_goes_with_a_renamed_one_that_is_made_anew(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the layer and the upper are on one overlayfs."""
    lower = workspace.add({"d": Dir(), "d/old": File(b"old")})
    with workspace.mounted() as view:
        os.rename("d", "renamed")
        with contextlib.chdir("renamed"):
            make_plain()
        wanted = picture(view)
    before = picture(lower)
    root = os.open(lower, os.O_PATH)
    monkeypatch.setattr(target, "_OVERLAYFS", attributes.file_system_of(root))
    os.close(root)
    apply(lower, request(workspace))
    same(picture(lower), wanted)
    applying.undo(lower)
    same(picture(lower), before)


@pytest.mark.parametrize("choice", ["", "theirs", "ours"])
def test_a_directory_that_the_layer_gets_meanwhile_is_a_conflict(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    """All the same if it is equal: what it holds is not compared."""
    lower = workspace.add({})
    with workspace.mounted():
        make_plain()
    mode = os.stat(f"{workspace.upper}/new").st_mode

    class Early(Folding):
        def __init__(self, is_free: Callable[[bytes], bool]) -> None:
            def is_free_before(path: bytes) -> bool:
                found = is_free(path)
                os.mkdir(f"{lower}/new")
                os.chmod(f"{lower}/new", stat.S_IMODE(mode))
                return found

            super().__init__(is_free_before)

    monkeypatch.setattr(planning, "Folding", Early)
    outcome = apply(lower, request(workspace, choice=choice))
    if choice == "theirs":
        assert [one.path for one in outcome.overwritten] == ["new"]
        assert read(f"{lower}/new/inner/b") == b"inner/b"
    else:
        named = outcome.skipped if choice else outcome.conflicts
        assert [one.path for one in named] == ["new"]
        assert os.listdir(f"{lower}/new") == []


def test_nothing_is_applied_if_files_cannot_be_moved_that_were_to_be(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = workspace.add({})
    with workspace.mounted():
        make_plain()
    before, upper = picture(lower), picture(workspace.upper)
    monkeypatch.setattr(run, "is_movable", lambda *_: False)
    with pytest.raises(run.NotApplied):
        apply(lower, request(workspace))
    same(picture(lower), before)
    same(picture(workspace.upper), upper)


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


def calls(action: Callable[[], object]) -> int:
    """How many functions of Python and of C an action calls."""
    counted = 0

    def count_one(_frame: object, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count_one)
    try:
        action()
    finally:
        sys.setprofile(None)
    return counted


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
