"""A listing stands still while it is read, whoever begins it anew."""

from __future__ import annotations

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
