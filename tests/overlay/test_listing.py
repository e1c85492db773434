"""A listing does not change while it is read, even if another reader restarts it."""

from __future__ import annotations

import os
import stat

from overlaykit.overlay.listing import Listings
from overlaykit.overlay.nodes import Directory
from overlaykit.overlay.nodes import File as FileNode

from ..posix.table import File
from .stack import Stack


def test_a_name_keeps_its_position_and_new_ones_come_last(stack: Stack) -> None:
    stack.add({name: File() for name in "abcdef"})
    with stack.open() as view:
        filesystem, root = view.filesystem, view.filesystem.root
        listing = filesystem.listings.get(root, restart=True)
        places = dict(zip((entry[0] for entry in listing.entries), listing.positions, strict=True))
        view.unlink("c")
        view.create("new")
        again = filesystem.listings.get(root, restart=True)
        assert [entry[0] for entry in again.entries][-1] == b"new"
        assert list(again.positions) == sorted(again.positions)
        for entry, position in zip(again.entries[:-1], again.positions, strict=False):
            assert places[entry[0]] == position
        third = again.positions[2]
        assert again.entries[again.index_after(third)][0] not in list(places)[:3]


def test_an_entry_that_was_replaced_is_looked_up_as_it_is_now(stack: Stack) -> None:
    stack.add({"lower": File()})
    with stack.open() as view:
        view.create("a")
        view.mkdir("b")
        view.create("c")
        filesystem, root = view.filesystem, view.filesystem.root
        entries = {entry[0]: entry for entry in filesystem.listings.get(root, restart=True).entries}
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
            found = filesystem.entries.look_up(root, entries[name])
            assert found is not None
            assert isinstance(found.node, kind)
            filesystem.nodes.evict_if_unused(found.node)
        assert filesystem.entries.look_up(root, entries[b"c"]) is None


def test_an_entry_that_was_copied_up_since_is_the_copy(stack: Stack) -> None:
    """Also if the listing restarts while the copy is made."""
    stack.add({name: File(b"old") for name in "abc"})
    with stack.open() as view:
        filesystem, root = view.filesystem, view.filesystem.root
        listing = filesystem.listings.get(root, restart=True)
        entries = {entry[0]: entry for entry in listing.entries}
        view.write("a", b"new")
        copy = filesystem.copyup.begin(view.file("b"), keep_data=True)
        assert copy is not None
        filesystem.listings.get(root, restart=True)
        copy.transfer()
        copy.finish()
        copy.close()
        view.forget_everything()
        for name, copied in ((b"a", True), (b"b", True), (b"c", False)):
            found = filesystem.entries.look_up(root, entries[name])
            assert found is not None
            assert isinstance(found.node, FileNode)
            assert found.node.has_upper == copied
            filesystem.nodes.evict_if_unused(found.node)
        filesystem.listings.get(root, restart=True)
        view.write("b", b"newer")
        view.forget_everything()
        found = filesystem.entries.look_up(root, entries[b"b"])
        assert found is not None
        filesystem.nodes.evict_if_unused(found.node)
        assert (view.read("a"), view.read("b")) == (b"new", b"newer")


def test_a_reader_that_removes_meets_every_name_while_another_reads_much(stack: Stack) -> None:
    stack.add({f"a/{number}": File() for number in range(1000)})
    with stack.open(as_kernel=False) as view:
        directory, other = view.directory("a"), view.filesystem.root
        entries = view.filesystem.entries
        layer_dir = entries.read(other)[0][2]
        large = [(b"%d" % number, stat.S_IFREG, layer_dir, 0) for number in range(40_000)]
        listings = Listings(lambda one: large if one is other else entries.read(one))
        met = []
        position = 0
        listing = listings.get(directory, restart=True)
        while (index := listing.index_after(position)) < len(listing.entries):
            met.append(listing.entries[index][0])
            position = listing.positions[index]
            view.unlink(f"a/{os.fsdecode(met[-1])}")
            if len(met) % 100 == 0:
                listings.end(other, listings.get(other, restart=True))
            listing = listings.get(directory, restart=False)
        assert len(met) == len(set(met)) == 1000
        listings.end(directory, listing)
        listings.end(other, listings.get(other, restart=True))
        assert directory.listing is None
