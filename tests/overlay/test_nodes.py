"""Nodeids: constant for a file, never two files' at once, and given back once they are unused."""

from __future__ import annotations

import errno
import os
import stat

from overlaykit.overlay.filesystem import Filesystem
from overlaykit.overlay.nodes import ROOT_NODEID, Directory, File, Table
from overlaykit.overlay.numbering import Numbering
from overlaykit.overlay.opened import OpenedLayer

from ..posix import syscalls
from ..posix import table as content
from .stack import Stack
from .view import refused


def test_the_root_has_nodeid_one_and_is_never_forgotten(stack: Stack) -> None:
    stack.add({})
    with stack.open() as view:
        assert view.nodeid("") == ROOT_NODEID
        view.filesystem.nodes.forget(ROOT_NODEID, 1000)
        assert view.names() == []


def test_a_nodeid_is_the_number_of_the_inode_that_held_the_file_first(stack: Stack) -> None:
    lower = stack.add({"d/f": content.File(b"x")})
    with stack.open() as view:
        inode = os.stat(os.path.join(lower, "d/f")).st_ino
        assert view.nodeid("d/f") == inode
        view.write("d/f", b"y")
        view.rename("d/f", "g")
        assert view.nodeid("g") == inode


def test_looking_up_twice_counts_twice(stack: Stack) -> None:
    stack.add({"f": content.File()})
    with stack.open() as view:
        node = view.node("f")
        node.count_lookup()
        view.forget_everything()
        assert view.filesystem.nodes.node(node.nodeid) is node
        view.filesystem.nodes.forget(node.nodeid, 1)
        with refused(errno.ESTALE):
            view.filesystem.nodes.node(node.nodeid)


def test_a_forgotten_nodeid_names_nothing(stack: Stack) -> None:
    stack.add({"f": content.File()})
    with stack.open() as view:
        nodeid = view.nodeid("f")
        view.forget_everything()
        with refused(errno.ESTALE):
            view.filesystem.nodes.node(nodeid)


def test_a_directory_stays_in_the_table_while_a_node_below_it_does(stack: Stack) -> None:
    stack.add({"a/b/f": content.File(b"x")})
    with stack.open() as view:
        nodeids = view.nodeid("a"), view.nodeid("a/b")
        node = view.file("a/b/f")
        node.count_lookup()
        view.forget_everything()
        assert all(view.filesystem.nodes.node(nodeid).nlookup == 0 for nodeid in nodeids)
        assert view.filesystem.nodes.file(node.nodeid) is node
        view.filesystem.nodes.forget(node.nodeid, 1)
        for nodeid in nodeids:
            with refused(errno.ESTALE):
                view.filesystem.nodes.node(nodeid)


def test_a_node_whose_lookup_is_not_counted_can_be_dropped(stack: Stack) -> None:
    stack.add({"a/f": content.File()})
    with stack.open() as view:
        directory = view.filesystem.lookup.require(view.filesystem.root, b"a")
        assert isinstance(directory, Directory)
        node = view.filesystem.lookup.require(directory, b"f")
        view.filesystem.nodes.evict_if_unused(node)
        assert view.filesystem.counts()["nodes"] == 1


def test_a_node_of_the_wrong_kind_is_refused(stack: Stack) -> None:
    stack.add({"f": content.File(), "d": content.Dir()})
    with stack.open() as view:
        with refused(errno.ENOTDIR):
            view.filesystem.nodes.directory(view.nodeid("f"))
        with refused(errno.EISDIR):
            view.filesystem.nodes.file(view.nodeid("d"))


def test_listing_gives_the_nodeids_that_stat_gives(stack: Stack) -> None:
    stack.add({"d/f": content.File(), "d/s": content.Symlink("f"), "d/sub": content.Dir()})
    stack.add({"d/g": content.File(), "d/sub/x": content.File()})
    with stack.open() as view:
        view.write("d/f", b"x")
        directory = view.directory("d")
        for entry in view.filesystem.listings.get(directory, restart=True).entries:
            found = view.filesystem.entries.look_up(directory, entry)
            assert found is not None
            assert found.node is view.node("d/" + os.fsdecode(entry[0]))
            tree = view.filesystem.tree
            assert tree.attributes(*found) == tree.attributes(found.node)


def test_a_listing_gives_nodeids_without_a_stat_where_it_can(stack: Stack) -> None:
    files: dict[str, content.Entry] = {"d/f": content.File(b"x"), "d/s": content.Symlink("f")}
    stack.add(files | {"d/p": content.Fifo(), "d/sub": content.Dir()})
    stack.add({"d/below": content.File()})
    with stack.open() as view:
        view.mkdir("new")
        view.create("new/f")
        view.forget_everything()
        assert set(view.names("d")) == {"f", "s", "p", "sub", "below"}
        without_nodeid = {name for name, nodeid in view.nodeids("d").items() if not nodeid}
        # Only a privileged mount indexes symlinks and FIFOs.
        assert without_nodeid == ({"sub", "s", "p"} if stack.unprivileged else {"sub"})
        assert view.nodeids("new")["f"]
        view.write("d/f", b"y")
        view.rename("d/f", "new/g")
        view.forget_everything()
        assert view.nodeids("new") == {"f": 0, "g": 0}  # one of them has the nodeid of another node
        assert view.nodeids("d")["below"]


def test_a_listing_gives_no_nodeid_that_another_node_has(stack: Stack) -> None:
    lower = stack.add({"f": content.File(), "g": content.File()})
    with stack.open(as_kernel=False, remount=False) as view:
        taken = os.stat(os.path.join(lower, "f")).st_ino
        other = File(stat.S_IFREG)
        view.filesystem.nodes.add(other, taken)
        assert view.nodeids() == {"f": 0, "g": os.stat(os.path.join(lower, "g")).st_ino}
        view.filesystem.nodes.evict_if_unused(other)


def test_d_ino_is_not_trusted_where_mounts_may_lie_on_files(stack: Stack) -> None:
    lower = stack.add({"f": content.File(), "g": content.File()})
    covered = os.fsencode(os.path.join(lower, "f"))
    syscalls.mount(os.fsencode(os.path.join(lower, "g")), covered, None, syscalls.MS_BIND)
    for mounted_in, believed in ((None, False), ({b""}, False), ({b"d"}, True)):
        fd = os.open(lower, os.O_PATH | os.O_DIRECTORY)
        mountpoints = None if mounted_in is None else frozenset(mounted_in)
        with Filesystem([OpenedLayer(fd, lower, mountpoints)]) as filesystem:
            entries = filesystem.listings.get(filesystem.root, restart=True).entries
            assert all(filesystem.entries.nodeids(filesystem.root, entries)) is believed
    syscalls.umount2(covered)


def test_thousands_of_changes_leave_nothing_behind(stack: Stack) -> None:
    stack.add({f"d{number}/f": content.File(b"x") for number in range(10)})
    with stack.open() as view:
        for round_ in range(50):
            at = f"d{round_ % 10}"
            view.create(f"{at}/new{round_}", b"x")
            view.rename(f"{at}/new{round_}", f"d{(round_ + 1) % 10}/moved{round_}")
            view.mkdir(f"{at}/sub{round_}")
            view.rmdir(f"{at}/sub{round_}")
            if round_ % 3 == 0:
                view.unlink(f"d{(round_ + 1) % 10}/moved{round_}")
            if round_ % 7 == 0:
                view.forget_everything()


# The table by itself.


def test_inodes_of_several_devices_get_different_numbers() -> None:
    numbering = Numbering()
    assert numbering.key(7, 42) == 42
    assert numbering.key(8, 42) != 42
    assert numbering.key(8, 42) == numbering.key(8, 42)
    assert numbering.key(8, 42) < 1 << 63


def test_a_too_large_inode_number_has_no_nodeid() -> None:
    assert Numbering().key(7, 1 << 50) == 0


def test_a_nodeid_in_use_is_not_given_out_again() -> None:
    nodes = Table()
    first, second, third = File(0), File(0), File(0)
    nodes.add(first, 42)
    nodes.add(second, 42)
    nodes.add(third, 0)
    assert len({first.nodeid, second.nodeid, third.nodeid}) == 3
    assert first.nodeid == 42
    assert nodes.by_nodeid[second.nodeid] is second


def test_a_first_lookup_shows_what_a_later_one_does(stack: Stack) -> None:
    stack.add({"f": content.File(b"x"), "a": content.File(b"y"), "b": content.Link("a")})
    stack.add({"f": content.File(b"below"), "d": content.Dir(mode=0o711), "l": content.File()})
    with stack.open(as_kernel=False) as view:  # which has no index for an ordinary user
        view.write("a", b"z")  # "b" is found in the lower, and is the copy
        view.create("new", b"w")
        for name in ("f", "b", "d", "l", "new"):
            root = view.filesystem.root
            found = view.filesystem.lookup.find(root, os.fsencode(name))
            assert found is not None
            tree = view.filesystem.tree
            assert tree.attributes(*found) == tree.attributes(found.node)
            view.filesystem.nodes.evict_if_unused(found.node)
