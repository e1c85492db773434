"""Removed names stay removed, in the upper by itself and in any later mount of it."""

from __future__ import annotations

import errno
import os

from ..posix.table import Dir, File, Link, Symlink
from .inside import as_root
from .stack import Stack
from .view import refused


def test_a_removed_file_of_a_lower_stays_removed(stack: Stack) -> None:
    stack.add({"f": File(b"x"), "g": File(b"y")})
    with stack.open() as view:
        view.unlink("f")
        assert view.names() == ["g"]
        assert not view.exists("f")


def test_a_removed_file_of_the_upper_leaves_no_whiteout(stack: Stack) -> None:
    stack.add({})
    with stack.open() as view:
        view.create("f", b"x")
        view.unlink("f")
        assert not view.exists("f")
    assert os.listdir(stack.upper) == []


def test_every_kind_can_be_removed_from_every_layer(stack: Stack) -> None:
    stack.add({"a": File(), "s": Symlink("a"), "d": Dir()})
    stack.add({"b": File(), "d/below": File(), "e": Dir()})
    with stack.open() as view:
        view.unlink("a")
        view.unlink("s")
        view.unlink("b")
        view.unlink("d/below")
        view.rmdir("d")
        view.rmdir("e")
        assert view.names() == []


def test_only_an_empty_directory_can_be_removed(stack: Stack) -> None:
    stack.add({"d/a": File()})
    stack.add({"d/b": File()})
    with stack.open() as view:
        view.unlink("d/a")
        with refused(errno.ENOTEMPTY):
            view.rmdir("d")
        assert view.names("d") == ["b"]


def test_a_directory_that_holds_only_whiteouts_can_be_removed(stack: Stack) -> None:
    stack.add({"d/a": File(), "d/b": File()})
    with stack.open() as view:
        view.unlink("d/a")
        view.unlink("d/b")
        view.rmdir("d")
        assert not view.exists("d")


def test_a_new_directory_does_not_show_the_content_of_a_removed_one(stack: Stack) -> None:
    stack.add({"d/old": File()})
    with stack.open() as view:
        view.unlink("d/old")
        view.rmdir("d")
        view.mkdir("d")
        view.create("d/new")
        assert view.names("d") == ["new"]


def test_a_name_can_be_made_and_removed_again_and_again(stack: Stack) -> None:
    stack.add({"n": File(b"lower")})
    with stack.open() as view:
        for number in range(3):
            view.unlink("n")
            view.mkdir("n")
            view.rmdir("n")
            view.create("n", b"%d" % number)
        assert view.read("n") == b"2"


def test_the_wrong_call_removes_nothing(stack: Stack) -> None:
    stack.add({"f": File(), "d": Dir()})
    with stack.open() as view:
        with refused(errno.EISDIR):
            view.unlink("d")
        with refused(errno.ENOTDIR):
            view.rmdir("f")
        with refused(errno.ENOENT):
            view.unlink("missing")
        assert sorted(view.names()) == ["d", "f"]
    assert os.listdir(stack.upper) == []


def test_without_an_upper_nothing_is_removed(stack: Stack) -> None:
    stack.add({"f": File(), "d": Dir()})
    stack.add({})
    with stack.open(writable=False) as view:
        with refused(errno.EROFS):
            view.unlink("f")
        with refused(errno.EROFS):
            view.rmdir("d")


def test_an_open_file_keeps_its_bytes_when_its_name_goes(stack: Stack) -> None:
    stack.add({"lower": File(b"from below"), "changed": File(b"old")})
    with stack.open() as view:
        view.write("changed", b"new")
        view.create("made", b"from above")
        with (
            view.opened("lower") as one,
            view.opened("changed") as two,
            view.opened("made", os.O_RDWR) as three,
        ):
            for name in ("lower", "changed", "made"):
                view.unlink(name)
            read = view.filesystem.files.read
            assert read(one, 0, 99) == b"from below"
            assert read(two, 0, 99) == b"new"
            view.filesystem.files.write(three, 0, b"FROM")
            assert read(three, 0, 99) == b"FROM above"


def test_a_file_whose_last_name_is_gone_has_no_links(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with stack.open() as view:
        node = view.file("f")
        with view.opened("f"):
            view.unlink("f")
            assert view.filesystem.tree.attributes(node).link_count == 0


def test_a_removed_directory_that_is_in_use_is_empty_and_takes_no_names(stack: Stack) -> None:
    stack.add({"d/a": File()})
    with stack.open() as view:
        directory = view.directory("d")
        view.unlink("d/a")
        view.rmdir("d")
        assert view.filesystem.listings.get(directory, restart=True).entries == []
        assert view.filesystem.tree.attributes(directory).link_count == 0
        assert view.filesystem.lookup.find(directory, b"a") is None
        with refused(errno.ENOENT):
            view.filesystem.creation.create(directory, b"new", 0o644, view.caller)


def test_a_new_file_of_an_old_name_is_another_file(stack: Stack) -> None:
    stack.add({"f": File(b"old", xattrs={"user.old": b"1"}, mode=0o600)})
    with stack.open() as view:
        old = view.file("f")
        with view.opened("f") as handle:
            view.unlink("f")
            new = view.create("f", b"new")
            assert new is not old
            assert new.nodeid != old.nodeid
            assert view.filesystem.files.read(handle, 0, 99) == b"old"
        assert view.xattrs("f") == {}


@as_root
def test_other_names_of_a_hard_link_stay_and_are_counted(stack: Stack) -> None:
    stack.add({"a": File(b"x"), "b": Link("a"), "c": Link("a")})
    with stack.open() as view:
        assert view.stat("a").link_count == 3
        view.unlink("b")
        assert view.stat("a").link_count == 2
        assert view.nodeid("a") == view.nodeid("c")
        view.write("c", b"y")
        assert view.read("a") == b"y"


@as_root
def test_the_last_name_of_a_hard_link_takes_the_index_entry_with_it(stack: Stack) -> None:
    stack.add({"a": File(b"x"), "b": Link("a")})
    with stack.open() as view:
        view.write("a", b"y")
        view.unlink("a")
        assert len(os.listdir(os.path.join(stack.work, "index"))) == 1
        view.unlink("b")
        assert os.listdir(os.path.join(stack.work, "index")) == []


def test_one_inode_serves_many_whiteouts(stack: Stack) -> None:
    stack.add({f"d/{number}": File() for number in range(20)})
    with stack.open() as view:
        for number in range(20):
            view.unlink(f"d/{number}")
        assert view.names("d") == []
    whiteouts = {entry.inode() for entry in os.scandir(os.path.join(stack.upper, "d"))}
    assert len(whiteouts) == 1
