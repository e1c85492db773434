"""Files of which the view and the layer have changed the text: both changes are written, or the conflict is named."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

import pytest

from overlaykit.changes import applying
from overlaykit.changes.applying import Outcome
from overlaykit.overlay import originals

from ..overlay.inside import directory_for
from ..posix.sandbox import Sandbox
from ..posix.systems import KernelOverlay, Overlaykit
from ..posix.table import Dir, File, Layer, Link
from .application import apply, at_step, killed, picture, request, resume
from .workspace import Workspace

BASE = b"".join(b"line %d\n" % number for number in range(1, 10))
FIRST = BASE.replace(b"line 1", b"first of the view")
LAST = BASE.replace(b"line 9", b"last of the layer")
BOTH = FIRST.replace(b"line 9", b"last of the layer")


@pytest.fixture
def workspace(sandbox: Sandbox) -> Iterator[Workspace]:
    with directory_for(sandbox, "merge") as place:
        found = Workspace(
            place, Overlaykit(sandbox.unprivileged), unprivileged=sandbox.unprivileged
        )
        found.keeps_originals = True
        yield found


@pytest.fixture(params=["fuse", "kernel"])
def without_originals(request: pytest.FixtureRequest, sandbox: Sandbox) -> Iterator[Workspace]:
    """That of a view without the option, and that of the kernel's overlayfs with it."""
    is_kernel = request.param == "kernel"
    system = (KernelOverlay if is_kernel else Overlaykit)(sandbox.unprivileged)
    with directory_for(sandbox, "merge") as place:
        found = Workspace(place, system, unprivileged=sandbox.unprivileged)
        found.keeps_originals = is_kernel
        yield found


def write(path: str, content: bytes, flags: int = os.O_TRUNC) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def changed(workspace: Workspace, tree: Layer, in_view: Callable[[], object]) -> str:
    """A layer of which a view has changed something. Returns: its path."""
    lower = workspace.add(tree)
    with workspace.mounted():
        in_view()
    return lower


def merge(workspace: Workspace, *, choice: str = "", consumes: bool = True) -> Outcome:
    asked = request(workspace, choice=choice, merges=True, consumes=consumes)
    return apply(workspace.lowers[0], asked)


def reason(outcome: Outcome) -> str:
    """Of the only conflict, behind what is said of each."""
    (conflict,) = outcome.conflicts
    return conflict.reason.partition(": ")[2]


@pytest.mark.parametrize("flags", [os.O_TRUNC, 0], ids=["truncated first", "written over"])
def test_changes_of_both_are_written_and_taken_back(workspace: Workspace, flags: int) -> None:
    def in_view() -> None:
        write("a", FIRST, flags)
        os.chmod("a", 0o600)
        os.setxattr("a", "user.of_view", b"1")

    lower = changed(workspace, {"a": File(BASE, mode=0o640)}, in_view)
    write(f"{lower}/a", LAST)
    os.setxattr(f"{lower}/a", "user.of_layer", b"2")
    before = picture(lower)
    (conflict,) = apply(lower, request(workspace)).conflicts
    assert conflict.can_merge
    dry = apply(lower, request(workspace, merges=True), dry_run=True)
    assert picture(lower) == before
    for _ in range(2):
        outcome = merge(workspace)
        assert outcome == dry
        assert [one.path for one in outcome.merged] == ["a"]
        assert read(f"{lower}/a") == BOTH
        assert stat.S_IMODE(os.stat(f"{lower}/a").st_mode) == 0o600
        assert {name: os.getxattr(f"{lower}/a", name) for name in os.listxattr(f"{lower}/a")} == {
            "user.of_view": b"1",
            "user.of_layer": b"2",
        }
        assert os.listdir(workspace.upper) == []
        applying.undo(lower)
        assert picture(lower) == before


def test_lines_that_both_have_changed_are_named_and_nothing_is_written(
    workspace: Workspace,
) -> None:
    lower = changed(
        workspace, {"a": File(BASE), "b": File(b"b")}, lambda: write_all(a=FIRST, b=b"x")
    )
    write(f"{lower}/a", BASE.replace(b"line 1\nline 2\n", b"1\n2\n3\n"))
    before = picture(lower)
    assert not apply(lower, request(workspace)).conflicts[0].can_merge
    assert reason(merge(workspace)) == "both have changed lines 1 to 3"
    assert picture(lower) == before
    assert not merge(workspace, choice="theirs").conflicts
    assert read(f"{lower}/a") == FIRST


def write_all(**contents: bytes) -> None:
    for name, content in contents.items():
        write(name, content)


@pytest.mark.parametrize(
    ("base", "view", "layer", "merged"),
    [
        (b"1\r\n2\r\n3\r\n", b"v\r\n2\r\n3\r\n", b"1\r\n2\r\nl\r\n", b"v\r\n2\r\nl\r\n"),
        (b"1\n2\n3", b"v\n2\n3", b"1\n2\n3\nl", b"v\n2\n3\nl"),
        (b"1\n2\n3", b"1\n2\nv", b"l\n2\n3", b"l\n2\nv"),
        (b"1\n2\n3", b"1\n2\nv\n", b"1\n2\nl\n", None),
        (b"", b"v\n", b"l\n", None),
        (b"1\n", b"", b"1\nl\n", None),
        (b"1\n2\n3\n", b"", b"1\n2\n3\n", b""),
        (b"1\n2\n3\n", b"x\n2\n3\n", b"x\n2\nl\n", b"x\n2\nl\n"),
        (b"\xff\n2\n3\n", b"v\n2\n3\n", b"\xff\n2\n\xfe\n", b"v\n2\n\xfe\n"),
    ],
    ids=[
        "CRLF",
        "no newline: appended",
        "no newline: changed",
        "no newline: both",
        "empty",
        "emptied and appended",
        "emptied",
        "the same",
        "not UTF-8",
    ],
)
def test_lines_of_every_form_are_kept(
    workspace: Workspace, base: bytes, view: bytes, layer: bytes, merged: bytes | None
) -> None:
    lower = changed(workspace, {"a": File(base)}, lambda: write("a", view))
    write(f"{lower}/a", layer)
    outcome = merge(workspace)
    assert bool(outcome.conflicts) == (merged is None)
    assert read(f"{lower}/a") == (layer if merged is None else merged)


@pytest.mark.parametrize(
    "base", [b"\0" + BASE, BASE * (originals.MOST // len(BASE) + 1)], ids=["binary", "large"]
)
def test_no_original_of_a_binary_or_a_large_file_is_merged(
    workspace: Workspace, base: bytes
) -> None:
    lower = changed(workspace, {"a": File(base)}, lambda: write("a", FIRST))
    write(f"{lower}/a", LAST)
    assert os.listdir(originals.beside(workspace.upper)) == []
    assert reason(merge(workspace)) == "no original was kept"
    assert read(f"{lower}/a") == LAST


def test_what_has_become_binary_is_not_merged(workspace: Workspace) -> None:
    lower = changed(workspace, {"a": File(BASE)}, lambda: write("a", b"\0" + BASE))
    write(f"{lower}/a", LAST)
    assert reason(merge(workspace)) == "it is no text of up to 1 MiB"


def test_without_originals_nothing_is_merged(without_originals: Workspace) -> None:
    workspace = without_originals
    lower = changed(workspace, {"a": File(BASE)}, lambda: write("a", FIRST))
    write(f"{lower}/a", LAST)
    assert not apply(lower, request(workspace)).conflicts[0].can_merge
    assert reason(merge(workspace)) == "no original was kept"


def test_a_file_that_cannot_be_kept_is_copied_up_all_the_same(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(BASE)})
    with workspace.mounted():
        os.rmdir(originals.beside(workspace.upper))
        write("a", FIRST)
    write(f"{lower}/a", LAST)
    assert reason(merge(workspace)) == "no original was kept"


def test_an_original_that_was_cut_off_is_none(workspace: Workspace) -> None:
    lower = changed(workspace, {"a": File(BASE)}, lambda: write("a", FIRST))
    write(f"{lower}/a", LAST)
    directory = originals.beside(workspace.upper)
    (name,) = os.listdir(directory)
    path = os.path.join(directory, name)
    os.truncate(path, os.stat(path).st_size - 1)
    assert reason(merge(workspace)) == "no original was kept"


def test_a_renamed_file_is_merged_under_its_new_name(workspace: Workspace) -> None:
    def in_view() -> None:
        write("a", FIRST)
        os.rename("a", "b")

    lower = changed(workspace, {"a": File(BASE)}, in_view)
    write(f"{lower}/a", LAST)
    before = picture(lower)
    assert merge(workspace).merged
    assert read(f"{lower}/b") == BOTH
    assert not os.path.lexists(f"{lower}/a")
    applying.undo(lower)
    assert picture(lower) == before


def rename_and_write() -> None:
    os.rename("a", "b")
    write("b", FIRST)


def write_and_rename() -> None:
    write("a", FIRST, 0)
    os.rename("a", "b")


@pytest.mark.parametrize(
    ("in_view", "merged"),
    [
        (rename_and_write, BOTH),
        (write_and_rename, BOTH),
        (lambda: os.rename("a", "b"), LAST),
    ],
    ids=["written after it", "written before it", "renamed only"],
)
def test_a_renamed_file_is_merged_with_the_one_that_replaced_it_in_the_layer(
    workspace: Workspace, in_view: Callable[[], object], merged: bytes
) -> None:
    lower = changed(workspace, {"a": File(BASE), "other": File(b"x")}, in_view)
    write(f"{lower}/new", LAST)
    os.rename(f"{lower}/new", f"{lower}/a")
    before = picture(lower)
    by_path = {one.path: one for one in apply(lower, request(workspace)).conflicts}
    assert by_path["b"].can_merge
    assert by_path["b"].reason == "it was renamed from a, where the layer has another file now"
    assert set(by_path) == {"a", "b"}
    assert [one.path for one in merge(workspace).merged] == ["b"]
    assert read(f"{lower}/b") == merged
    assert not os.path.lexists(f"{lower}/a")
    applying.undo(lower)
    assert picture(lower) == before


def test_lines_that_both_have_changed_are_named_for_a_renamed_file_too(
    workspace: Workspace,
) -> None:
    lower = changed(workspace, {"a": File(BASE)}, rename_and_write)
    write(f"{lower}/new", BASE.replace(b"line 1", b"first of the layer"))
    os.rename(f"{lower}/new", f"{lower}/a")
    before = picture(lower)
    by_path = {one.path: one.reason for one in merge(workspace).conflicts}
    assert by_path["b"].endswith("has another file now: both have changed line 1")
    assert picture(lower) == before
    assert not merge(workspace, choice="ours").conflicts
    assert picture(lower) == before


def replace() -> None:
    """As `sed -i`."""
    write("new", FIRST)
    os.chmod("new", stat.S_IMODE(os.stat("a").st_mode))
    os.rename("new", "a")


def unlink_and_create() -> None:
    """As `git checkout`."""
    os.unlink("a")
    write("a", FIRST)


def back_up_and_create() -> None:
    """As editors do."""
    os.rename("a", "a~")
    write("a", FIRST)
    os.unlink("a~")


def write_and_replace() -> None:
    write("a", BASE.replace(b"line 5", b"written first"))
    replace()


def link_over() -> None:
    write("new", FIRST)
    os.unlink("a")
    os.link("new", "a")
    os.unlink("new")


@pytest.mark.parametrize(
    "in_view", [replace, unlink_and_create, back_up_and_create, write_and_replace, link_over]
)
@pytest.mark.parametrize("where", [".", "d/e"])
def test_a_file_that_both_have_replaced_is_merged(
    workspace: Workspace, in_view: Callable[[], None], where: str
) -> None:
    lower = workspace.add({"d": Dir(), "d/e": Dir(), f"{where}/a": File(BASE, mode=0o644)})
    with workspace.mounted() as view:
        if where != ".":
            os.rename("d", "D")
        os.chdir(os.path.join(view, where.replace("d", "D", 1)))
        in_view()
        os.chdir(view)
    write(f"{lower}/{where}/new", LAST)
    os.chmod(f"{lower}/{where}/new", 0o644)
    os.rename(f"{lower}/{where}/new", f"{lower}/{where}/a")
    before = picture(lower)
    assert merge(workspace).merged
    assert read(os.path.join(lower, where.replace("d", "D", 1), "a")) == BOTH
    applying.undo(lower)
    assert picture(lower) == before


def test_a_file_that_was_changed_before_it_was_replaced_has_no_original(
    workspace: Workspace,
) -> None:
    lower = workspace.add({"a": File(BASE)})
    with workspace.mounted():
        write(f"{lower}/a", LAST)
        replace()
    assert reason(merge(workspace)) == "no original was kept"
    assert read(f"{lower}/a") == LAST


@pytest.mark.parametrize("content", [BASE, b"\0"], ids=["text", "binary"])
def test_what_is_renamed_over_a_file_is_not_merged_from_what_it_was_itself(
    workspace: Workspace, content: bytes
) -> None:
    """The view's change would be lost: it is that the one file has the place of the other."""
    tree: Layer = {"a": File(content, mode=0o644), "b": File(FIRST, mode=0o644)}
    lower = changed(workspace, tree, lambda: os.rename("b", "a"))
    write(f"{lower}/a", LAST)
    outcome = merge(workspace)
    assert bool(outcome.conflicts) == (content != BASE)
    assert read(f"{lower}/a") == (BOTH if content == BASE else LAST)


def test_a_file_is_replaced_where_no_original_can_be_kept(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(BASE)})
    with workspace.mounted():
        os.rmdir(originals.beside(workspace.upper))
        replace()
        assert read("a") == FIRST
    write(f"{lower}/a", LAST)
    assert reason(merge(workspace)) == "no original was kept"


def test_metadata_that_both_have_changed_are_a_conflict(workspace: Workspace) -> None:
    def in_view() -> None:
        write("a", FIRST)
        os.chmod("a", 0o600)

    lower = changed(workspace, {"a": File(BASE, mode=0o644)}, in_view)
    write(f"{lower}/a", LAST)
    os.chmod(f"{lower}/a", 0o755)
    assert reason(merge(workspace)) == "both have changed the mode"
    assert read(f"{lower}/a") == LAST


def test_hard_links_are_not_merged(workspace: Workspace) -> None:
    tree: Layer = {"a": File(BASE), "b": Link("a")}
    lower = changed(workspace, tree, lambda: write("a", FIRST))
    write(f"{lower}/a", LAST)
    outcome = merge(workspace)
    assert outcome.conflicts
    assert all("several names" in conflict.reason for conflict in outcome.conflicts)
    assert read(f"{lower}/b") == LAST


def test_two_views_are_merged_one_after_the_other(workspace: Workspace) -> None:
    lower = workspace.add({"a": File(BASE)})
    other = workspace.beside("other")
    other.keeps_originals = True
    with workspace.mounted():
        write("a", FIRST)
    with other.mounted():
        write("a", BASE.replace(b"line 5", b"middle of the other"))
    write(f"{lower}/a", LAST)
    before = picture(lower)
    assert merge(workspace).merged
    assert merge(other).merged
    assert read(f"{lower}/a") == BOTH.replace(b"line 5", b"middle of the other")
    applying.undo(lower)
    applying.undo(lower)
    assert picture(lower) == before


def test_a_view_that_keeps_its_files_does_not_write_over_what_was_merged(
    workspace: Workspace,
) -> None:
    lower = changed(
        workspace, {"a": File(BASE), "b": File(b"b")}, lambda: write_all(a=FIRST, b=b"x")
    )
    write(f"{lower}/a", LAST)
    assert merge(workspace, consumes=False).merged
    (conflict,) = apply(lower, request(workspace, consumes=False)).conflicts
    assert conflict.path == "a"
    assert merge(workspace, consumes=False).written == ()
    with workspace.mounted():
        write("a", FIRST.replace(b"line 5", b"middle of the view"))
    assert merge(workspace).merged
    assert read(f"{lower}/a") == BOTH.replace(b"line 5", b"middle of the view")


def test_a_copy_of_the_layer_needs_no_originals(workspace: Workspace) -> None:
    lower = changed(workspace, {"a": File(BASE)}, lambda: write("a", FIRST))
    target = lower + ".copy"
    os.mkdir(target)
    write(f"{target}/a", LAST)
    os.chmod(f"{target}/a", os.stat(f"{lower}/a").st_mode)
    asked = request(workspace, merges=True, consumes=False)
    assert apply(target, asked).merged
    assert read(f"{target}/a") == BOTH
    assert read(f"{lower}/a") == BASE


def test_a_merge_that_is_killed_is_finished(workspace: Workspace) -> None:
    lower = changed(workspace, {"a": File(BASE)}, lambda: write("a", FIRST))
    for step in ("apply.begun", "apply.planned"):
        write(f"{lower}/a", LAST)
        asked = request(workspace, merges=True)
        assert killed(lambda: apply(lower, asked), at_step(step))  # noqa: B023
        resume(lower)
        assert read(f"{lower}/a") == BOTH
        applying.undo(lower)
        assert read(f"{lower}/a") == LAST
