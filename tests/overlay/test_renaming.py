"""A rename moves everything: content, hard links, and all layers of a directory."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from overlaykit._native import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from overlaykit.overlay.stack import MergeOptions

from ..posix.table import Dir, File, Link, Symlink
from .deep import DEEP_PATH, make_deep
from .inside import as_root
from .stack import Stack
from .view import refused

# The kernel follows no redirects in a user namespace: tests that leave one do not compare with it there.


def test_a_file_of_a_lower_moves_whole(stack: Stack) -> None:
    stack.add({"a": File(b"x", mode=0o640, xattrs={"user.k": b"v"}), "d": Dir()})
    with stack.open() as view:
        nodeid = view.nodeid("a")
        view.rename("a", "d/b")
        assert view.names() == ["d"]
        assert view.read("d/b") == b"x"
        assert view.xattrs("d/b") == {"user.k": b"v"}
        assert view.nodeid("d/b") == nodeid


@pytest.mark.parametrize("onto", ["", "whiteout"])
def test_the_whiteouts_that_files_of_a_lower_leave_are_one_inode(stack: Stack, onto: str) -> None:
    stack.add({name: File(name.encode()) for name in ("a", "b", "c", "gone")} | {"d": Dir()})
    with stack.open() as view:
        if onto:
            view.unlink("gone")
        view.rename("a", "new")
        view.rename("b", "d/new")
        view.rename("c", "gone" if onto else "other")
        assert view.names("d") == ["new"]
        assert view.read("d/new") == b"b"
    whiteouts = [os.lstat(os.path.join(stack.upper, name)) for name in "abc"]
    assert all(stat.S_ISCHR(st.st_mode) and st.st_rdev == 0 for st in whiteouts)
    assert len({st.st_ino for st in whiteouts}) == 1


def test_a_file_replaces_a_file_of_any_layer(stack: Stack) -> None:
    stack.add({"a": File(b"a"), "b": File(b"b"), "c": File(b"c")})
    with stack.open() as view:
        view.rename("a", "b")
        view.rename("b", "c")
        view.create("d", b"d")
        view.rename("c", "d")
        assert view.names() == ["d"]
        assert view.read("d") == b"a"


def test_a_replaced_file_that_is_open_keeps_its_bytes(stack: Stack) -> None:
    stack.add({"old": File(b"old"), "new": File(b"new")})
    with stack.open() as view, view.opened("old") as handle:
        view.rename("new", "old")
        assert view.filesystem.files.read(handle, 0, 9) == b"old"
        assert view.read("old") == b"new"


def test_an_open_file_is_written_under_its_new_name(stack: Stack) -> None:
    stack.add({"a": File(b"....")})
    with stack.open() as view, view.opened("a", os.O_RDWR) as handle:
        view.rename("a", "b")
        view.filesystem.files.write(handle, 0, b"new")
        assert view.read("b") == b"new."


def test_a_file_comes_back_to_the_name_it_left(stack: Stack) -> None:
    stack.add({"a": File(b"x")})
    with stack.open() as view:
        view.rename("a", "b")
        view.rename("b", "a")
        assert view.names() == ["a"]
        assert view.read("a") == b"x"


def test_noreplace_replaces_nothing(stack: Stack) -> None:
    stack.add({"a": File(b"a"), "b": File(b"b")})
    with stack.open() as view:
        with refused(errno.EEXIST):
            view.rename("a", "b", RENAME_NOREPLACE)
        assert view.read("b") == b"b"
        view.rename("a", "c", RENAME_NOREPLACE)
        assert sorted(view.names()) == ["b", "c"]


def test_noreplace_takes_a_name_that_was_removed(stack: Stack) -> None:
    stack.add({"a": File(b"a"), "b": File(b"b")})
    with stack.open() as view:
        view.unlink("b")
        view.rename("a", "b", RENAME_NOREPLACE)
        assert view.read("b") == b"a"


def test_exchange_swaps_files(stack: Stack) -> None:
    stack.add({"a": File(b"a"), "d/b": File(b"b")})
    with stack.open() as view:
        nodeids = view.nodeid("a"), view.nodeid("d/b")
        view.rename("a", "d/b", RENAME_EXCHANGE)
        assert (view.read("a"), view.read("d/b")) == (b"b", b"a")
        assert (view.nodeid("d/b"), view.nodeid("a")) == nodeids


def test_exchange_swaps_a_file_and_a_merged_directory(stack: Stack) -> None:
    stack.add({"f": File(b"f"), "d/top": File()})
    stack.add({"d/bottom": File(b"x")})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        view.rename("f", "d", RENAME_EXCHANGE)
        assert sorted(view.names("f")) == ["bottom", "top"]
        assert view.read("d") == b"f"


def test_exchange_swaps_merged_directories(stack: Stack) -> None:
    stack.add({"a/1": File(b"1"), "b/2": File(b"2")})
    stack.add({"a/3": File(b"3"), "b/4": File(b"4"), "c/b/5": File()})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        view.rename("a", "b", RENAME_EXCHANGE)
        assert (sorted(view.names("b")), sorted(view.names("a"))) == (["1", "3"], ["2", "4"])
        view.rename("a", "c/b", RENAME_EXCHANGE)
        assert view.names("a") == ["5"]
        assert sorted(view.names("c/b")) == ["2", "4"]


def test_exchange_needs_both_names(stack: Stack) -> None:
    stack.add({"a": File()})
    with stack.open() as view:
        with refused(errno.ENOENT):
            view.rename("a", "b", RENAME_EXCHANGE)
        with refused(errno.ENOENT):
            view.rename("b", "a", RENAME_EXCHANGE)


@pytest.mark.parametrize("flags", [RENAME_WHITEOUT, RENAME_EXCHANGE | RENAME_NOREPLACE, 8])
def test_other_flags_are_refused(stack: Stack, flags: int) -> None:
    stack.add({"a": File(), "b": File()})
    with stack.open() as view, refused(errno.EINVAL):
        view.rename("a", "b", flags)


def test_a_merged_directory_moves_with_all_its_layers(stack: Stack) -> None:
    stack.add({"d/top": File(b"t"), "other": Dir()})
    stack.add({"d/bottom": File(b"b"), "d/sub/x": File(b"x")})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        view.create("d/new", b"n")
        nodeid = view.nodeid("d")
        view.rename("d", "e")
        assert sorted(view.names("e")) == ["bottom", "new", "sub", "top"]
        view.rename("e", "other/f")
        assert view.read("other/f/sub/x") == b"x"
        assert view.nodeid("other/f") == nodeid
        assert view.names() == ["other"]


def test_a_directory_moves_below_one_that_moved(stack: Stack) -> None:
    stack.add({"a/in-a": File(b"a"), "b/in-b": File(b"b")})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        view.rename("a", "a2")
        view.rename("b", "a2/b2")
        view.rename("a2", "a3")
        assert view.read("a3/in-a") == b"a"
        assert view.read("a3/b2/in-b") == b"b"
        view.rename("a3/b2", "b")
        assert view.read("b/in-b") == b"b"
        assert view.names("a3") == ["in-a"]


def test_the_content_of_a_moved_directory_moves_again(stack: Stack) -> None:
    stack.add({"a/b/c/f": File(b"f")})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        view.rename("a", "x")
        view.rename("x/b", "x/y")
        view.rename("x/y/c", "z")
        assert view.read("z/f") == b"f"
        assert view.names("x/y") == []
        view.write("z/f", b"g")
        assert view.read("z/f") == b"g"


def test_another_directory_of_the_old_name_is_empty(stack: Stack) -> None:
    stack.add({"d/f": File(b"f")})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        view.rename("d", "e")
        view.mkdir("d")
        assert view.names("d") == []
        view.create("d/g")
        assert view.names("e") == ["f"]


def test_a_new_directory_moved_over_an_old_name_hides_the_lower(stack: Stack) -> None:
    stack.add({"d/old": File(), "p/name/below": File()})
    with stack.open() as view:
        view.mkdir("n")
        view.create("n/f")
        view.unlink("d/old")
        view.rename("n", "d")
        assert view.names("d") == ["f"]
        view.unlink("p/name/below")
        view.rename("d", "p/name")
        assert view.names("p/name") == ["f"]


def test_a_directory_replaces_an_empty_merged_one_that_is_in_use(stack: Stack) -> None:
    stack.add({"a/f": File(b"f"), "b/gone": File()})
    stack.add({"b/gone-too": File()})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        view.unlink("b/gone")
        view.unlink("b/gone-too")
        replaced = view.directory("b")
        view.rename("a", "b")
        assert view.names("b") == ["f"]
        assert view.filesystem.listings.get(replaced, restart=True).entries == []


def test_a_target_of_the_wrong_kind_is_not_replaced(stack: Stack) -> None:
    stack.add({"f": File(b"f"), "d/below": File(), "e": Dir()})
    with stack.open() as view:
        with refused(errno.EISDIR):
            view.rename("f", "e")
        with refused(errno.ENOTDIR):
            view.rename("e", "f")
        with refused(errno.ENOTEMPTY):
            view.rename("e", "d")
        with refused(errno.ENOENT):
            view.rename("missing", "x")
        assert sorted(view.names()) == ["d", "e", "f"]


def test_without_redirects_a_merged_directory_stays_and_programs_copy_it(stack: Stack) -> None:
    stack.add({"d/f": File(), "pure": Dir(), "full/f": File()})
    options = MergeOptions(redirect_dir="follow", userxattr=stack.unprivileged)
    with stack.open(options=options) as view:
        with refused(errno.EXDEV):
            view.rename("d", "e")
        with refused(errno.EXDEV):  # as the kernel's overlayfs, before it looks at what is there
            view.rename("d", "full")
        view.mkdir("new")
        view.rename("new", "newer")
        assert sorted(view.names()) == ["d", "full", "newer", "pure"]


def test_a_redirect_too_long_to_store_is_a_move_across_devices(stack: Stack) -> None:
    os.close(make_deep(stack.add({"to": Dir()})))
    with stack.open(as_kernel=False) as view:  # which would need a path that is too long
        with refused(errno.EXDEV):
            view.rename(DEEP_PATH, "to/d")
        assert view.names("to") == []


@as_root
def test_two_names_of_one_file_are_not_moved_onto_each_other(stack: Stack) -> None:
    stack.add({"a": File(b"x"), "b": Link("a")})
    with stack.open() as view:
        view.rename("a", "b")
        assert sorted(view.names()) == ["a", "b"]
        assert view.stat("a").link_count == 2


@as_root
def test_hard_links_are_one_file_after_one_of_them_moved(stack: Stack) -> None:
    stack.add({"a": File(b"x"), "b": Link("a"), "c": File(b"c")})
    with stack.open() as view:
        view.rename("a", "d")
        view.write("b", b"y")
        assert view.read("d") == b"y"
        view.rename("c", "b")
        assert view.stat("d").link_count == 1
        assert view.read("b") == b"c"


def test_symlinks_move_as_they_are(stack: Stack) -> None:
    stack.add({"s": Symlink("nowhere"), "d": Dir()})
    with stack.open() as view:
        view.rename("s", "d/t")
        assert view.readlink("d/t") == b"nowhere"


def test_a_directory_that_moved_is_forgotten_and_found_again(stack: Stack) -> None:
    stack.add({"a/b/f": File(b"f")})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        view.rename("a", "x")
        view.forget_everything()
        assert view.read("x/b/f") == b"f"
        view.rename("x/b", "b")
        view.forget_everything()
        assert view.read("b/f") == b"f"


def test_a_file_that_was_just_copied_up_is_renamed_without_a_look_at_a_missing_name(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.add({name: File(b"lower") for name in "fgh"})
    with stack.bare() as view:
        filesystem = view.filesystem
        view.write("f", b"upper")
        view.write("g", b"upper")
        for nodeid in [view.file(name).nodeid for name in "fg"]:
            filesystem.nodes.evict_if_unused(filesystem.nodes.node(nodeid))
        rename = filesystem.renaming.rename_below
        root = filesystem.root
        assert not rename(root, b"f", root, b"h", is_free=False)
        assert rename(root, b"f", root, b"F", is_free=False)
        with monkeypatch.context() as patched:
            patched.setattr(filesystem.tree.merge, "find", None)
            assert rename(root, b"g", root, b"G", is_free=True)
        assert sorted(view.names()) == ["F", "G", "h"]
        assert (view.read("G"), view.read("h")) == (b"upper", b"lower")
