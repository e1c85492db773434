"""A listing stands still while it is read, whoever begins it anew."""

from __future__ import annotations

from overlaykit.overlay.nodes import Directory
from overlaykit.overlay.nodes import File as FileNode

from ..posix.table import File
from .stack import Stack


def test_a_name_keeps_its_position_and_new_ones_come_last(stack: Stack) -> None:
    stack.add({name: File() for name in "abcdef"})
    with stack.open() as view:
        filesystem, root = view.filesystem, view.filesystem.root
        listing = filesystem.listing(root, anew=True)
        places = dict(zip((e.name for e in listing.entries), listing.positions, strict=True))
        view.unlink("c")
        view.create("new")
        again = filesystem.listing(root, anew=True)
        assert [entry.name for entry in again.entries][-1] == b"new"
        assert list(again.positions) == sorted(again.positions)
        for entry, position in zip(again.entries[:-1], again.positions, strict=False):
            assert places[entry.name] == position
        third = again.positions[2]
        assert again.entries[again.index_after(third)].name not in list(places)[:3]


def test_an_entry_that_became_something_else_is_what_it_is_now(stack: Stack) -> None:
    stack.add({"lower": File()})
    with stack.open() as view:
        view.create("a")
        view.mkdir("b")
        view.create("c")
        filesystem, root = view.filesystem, view.filesystem.root
        entries = {entry.name: entry for entry in filesystem.listing(root, anew=True).entries}
        view.unlink("a")
        view.mkdir("a")
        view.create("a/below")
        view.rmdir("b")
        view.create("b")
        view.unlink("c")
        view.unlink("lower")
        view.mkdir("lower")
        view.forget_everything()
        for name, kind in ((b"a", Directory), (b"b", FileNode), (b"lower", Directory)):
            found = filesystem.look_up_entry(root, entries[name])
            assert found is not None
            assert isinstance(found[0], kind)
            filesystem.settle(found[0])
        assert filesystem.look_up_entry(root, entries[b"c"]) is None
