"""Nodes, and the table that gives out their nodeids.

A nodeid is FUSE's number of a node, and its st_ino. It is derived from the inode that holds the node's content at first
(the origin), so it survives copy-up, rename, forgetting and remounting. If that number is taken (the file system reused
an inode's number while the kernel still has the old node), the node gets a free one.

Only this file writes attributes of nodes: each event in a node's life has a method here, which keeps the invariants.

Invariants: `Table.by_nodeid` holds every node the kernel may name: those that the kernel counts lookups of or holds
open, and the directories above them. `Directory.children` maps the names of such nodes. A file stands in the `children`
of a directory under a name if and only if the two are among its `links`.
"""

from __future__ import annotations

import errno
import os
import stat

from overlaykit.lean import NamedTuple, Protocol
from overlaykit.overlay.changetimes import ChangeTimes
from overlaykit.overlay.failure import fail
from overlaykit.overlay.numbering import FIRST_FREE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, TypeAlias

    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.listing import Listing
    from overlaykit.overlay.liveness import Version
    from overlaykit.overlay.markers import Metacopy
    from overlaykit.overlay.openfile import OpenFile

ROOT_NODEID: Final = 1
"""include/uapi/linux/fuse.h: FUSE_ROOT_ID."""

IN_INDEX: Final = b"index/"
"""Before the name of an entry of the index, where a later daemon finds a file of which no name is known."""

_FIRST_GENERATION: Final = 2
_GENERATIONS: Final = 1 << 31
"""The kernel keeps 32 bits of a generation; the root's is 0, and 1 has a meaning of its own (`_native.NAME_ONLY`)."""


class _Counted:
    """What files and directories have in common: what the kernel knows of them.

    `generation`: no other node that has had its nodeid has had it too.
    `nlookup`: how many answered lookups the kernel has not forgotten.
    `last_seen`: its attributes before its last known name went, or None: some file systems do not have them later.
    `shown`: its st_ino, if that may be another number than the nodeid; 0: it is the same.
    """

    __slots__ = ("generation", "last_seen", "nlookup", "nodeid", "shown")

    def __init__(self) -> None:
        self.nodeid = 0
        self.generation = 0
        self.nlookup = 0
        self.shown = 0
        self.last_seen: os.stat_result | None = None

    @property
    def inode_number(self) -> int:
        """Its st_ino."""
        return self.shown or self.nodeid

    def count_lookup(self, times: int = 1) -> None:
        """Count a lookup, or some, that the kernel has been answered."""
        self.nlookup += times

    def remember(self, st: os.stat_result) -> None:
        """Keep its attributes. Requires: called before its last known name goes."""
        self.last_seen = st


class Data(NamedTuple):
    """Where the data of a metacopy lie: `name` in a lower's `layer_dir`; None: they are out of reach.

    `marker`: its marker on the disk. None: a copy without a name, which needs none.
    """

    layer_dir: LayerDir | None
    name: bytes
    marker: Metacopy | None


class File(_Counted):
    """Anything but a directory: regular files, symlinks, devices, FIFOs, sockets.

    `links`: its known names, as (directory, name); empty once the last one was removed.
    `lower_dir`, `lower_name`: where its content lies in a lower, if it came from one.
    `key`, `lower_key`: the numbers of the real inodes by which the table finds it (0: none).
    `has_upper`: its content lies in the upper: in the index under `index_name` if it has one, else under any of
    `links`, else behind the descriptor `orphan`.
    `data`: where its data lie, if that is not where its metadata do (`metacopy`); the inode has the file's size. Of one
    that was copied up without a name, `orphan` can be written to.
    `redirect`: the marker that says where the lowers hold the data of a metacopy in the upper, if it has one.
    `has_origin`: it came from a lower, even if that is not found any more.
    `link_count`: the merged count of an indexed hard link; None if it is the real inode's own.
    `opened`: the open file that its handles share, while it is open.
    `told`: of a file of a live lower, the version that the kernel has; None: of a lower that does not change.
    `known_size`: then its size for the kernel. `fresh_ns`: when the kernel last had none of its pages.
    `held`: how many requests change it now.
    """

    __slots__ = (
        "data",
        "fresh_ns",
        "has_origin",
        "has_upper",
        "held",
        "index_name",
        "key",
        "kind",
        "known_size",
        "link_count",
        "links",
        "lower_dir",
        "lower_key",
        "lower_name",
        "opened",
        "orphan",
        "redirect",
        "told",
    )

    def __init__(
        self,
        kind: int,
        *,
        key: int = 0,
        lower_key: int = 0,
        lower_dir: LayerDir | None = None,
        lower_name: bytes = b"",
        has_upper: bool = False,
        has_origin: bool = False,
        index_name: bytes | None = None,
        link_count: int | None = None,
        data: Data | None = None,
        redirect: bytes | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.key = key
        self.lower_key = lower_key
        self.links: tuple[tuple[Directory, bytes], ...] = ()
        self.lower_dir = lower_dir
        self.lower_name = lower_name
        self.has_upper = has_upper
        self.has_origin = has_origin
        self.index_name = index_name
        self.link_count = link_count
        self.opened: OpenFile | None = None
        self.orphan = -1
        self.data = data
        self.redirect = redirect
        self.told: Version | None = None
        self.known_size = 0
        self.fresh_ns = 0
        self.held = 0

    @property
    def in_use(self) -> bool:
        return self.nlookup > 0 or (self.opened is not None and self.opened.count > 0)

    @property
    def may_be_outdated(self) -> bool:
        """Whether its lower is to be compared with what the kernel was told. Not while a program writes to it."""
        return (
            self.told is not None
            and not self.has_upper
            and not self.held
            and (self.opened is None or not self.opened.lazily)
        )

    def mark_told(self, told: Version, now_ns: int, shown: int) -> None:
        """Note what the kernel is told of it with the first reply that names it, and its st_ino."""
        self.told = told
        self.known_size = told.size
        self.shown = shown
        self.fresh_ns = now_ns

    def mark_grown(self, size: int) -> None:
        """Note that the kernel is told of a larger size of the open file."""
        self.known_size = size

    def mark_fresh(self, now_ns: int) -> None:
        """Note that the kernel drops its pages."""
        self.fresh_ns = now_ns

    def hold(self) -> None:
        """Note that a request changes it, until `release`."""
        self.held += 1

    def release(self) -> None:
        self.held -= 1

    def lose_lower(self) -> None:
        """Note that its lower has something else in its place: only open files reach it."""
        self.lower_dir = None

    @property
    def metacopy(self) -> bool:
        """Whether its inode holds its metadata only."""
        return self.data is not None

    @property
    def is_plain_upper(self) -> bool:
        """Whether it is a regular file of the upper with one name, and its inode alone says all about it."""
        return (
            self.has_upper
            and self.kind == stat.S_IFREG
            and len(self.links) == 1
            and self.orphan < 0
            and self.data is None
            and self.redirect is None
            and self.index_name is None
            and self.link_count is None
        )

    def needs_copy(self, *, metadata_only: bool = False) -> bool:
        """Whether a change takes a copy-up first: a change of its metadata, or also of its data."""
        return not self.has_upper or (self.metacopy and not metadata_only)

    @property
    def inode(self) -> int:
        """The descriptor of its inode, if the open file has one now; else -1."""
        if self.opened is None or self.opened.is_idle or self.metacopy:
            return -1
        return self.opened.fd

    def mark_copied_up(self, data: Data | None = None) -> None:
        """Note that its content lies in the upper, or all but its `data`.

        Requires: in the index, under one of `links`, or behind `orphan`.
        """
        self.has_upper = self.has_origin = True
        self.data = data
        self.told = None

    def mark_indexed(self, index_name: bytes, link_count: int) -> None:
        """Note that its copy lies in the index. `link_count`: the lower's."""
        self.index_name = index_name
        self.link_count = link_count

    def mark_data_found(self, data: Data) -> None:
        """Note that its lower is a metacopy. Requires: it has no upper."""
        self.data = data

    def mark_data_copied(self) -> None:
        """Note that the data of a metacopy are copied too."""
        self.data = self.redirect = None

    def mark_redirected(self, redirect: bytes) -> None:
        """Note that its upper, a metacopy, has this redirect."""
        self.redirect = redirect

    @property
    def is_in_layer(self) -> bool:
        """Whether its content lies in the upper under a name, or in the index: not only behind `orphan`."""
        return self.has_upper and (bool(self.links) or self.index_name is not None)

    def mark_frozen(self, index: LayerDir) -> None:
        """Note that the upper is a lower from now on, and `index` the index of that. Requires: `is_in_layer`."""
        if self.index_name is not None:
            self.lower_dir, self.lower_name = index, self.index_name
        else:
            directory, self.lower_name = self.links[0]
            self.lower_dir = directory.upper
        self.release_inode()
        self.lower_key, self.key = self.key, 0
        self.has_upper = False
        self.told = None  # the mount itself may have changed it since, and nothing does from now on
        self.index_name = self.redirect = None

    def mark_found_in(self, lower_dir: LayerDir, name: bytes) -> None:
        """Note that another layer, or another place in it, has its inode. Requires: it has no upper."""
        self.lower_dir, self.lower_name = lower_dir, name

    def part(self) -> None:
        """Note that other names of its inode, which are not known, are another file's from now on."""
        self.key = 0

    def keep_inode(self, fd: int) -> None:
        """Take over a descriptor of the inode, for when no known name leads to it."""
        self.orphan = fd

    def release_inode(self) -> None:
        """Close `orphan`, if it is open."""
        if self.orphan >= 0:
            fd, self.orphan = self.orphan, -1
            os.close(fd)

    def learn_link_count(self, link_count: int | None) -> None:
        """Take the count that a lookup of another name has read, unless one is known."""
        if self.link_count is None:
            self.link_count = link_count

    def set_link_count(self, link_count: int) -> None:
        """Note that it got or lost a name. Requires: it is indexed."""
        self.link_count = link_count

    def drop_index(self) -> None:
        """Note that its entry in the index is gone, with the last name."""
        self.index_name = None

    def mark_opened(self, opened: OpenFile) -> None:
        self.opened = opened

    def mark_closed(self) -> None:
        self.opened = None

    def add_link(self, directory: Directory, name: bytes) -> None:
        """Add a name. Requires: the directory has no child of that name."""
        directory.children[name] = self
        self.links += ((directory, name),)

    def drop_link(self, directory: Directory, name: bytes) -> None:
        """Drop a name. Raises ValueError if it has no such name."""
        at = self.links.index((directory, name))
        self.links = self.links[:at] + self.links[at + 1 :]
        del directory.children[name]

    def drop_links(self) -> None:
        for directory, name in self.links:
            del directory.children[name]
        self.links = ()


class Directory(_Counted):
    """A merged directory: an upper (or none yet) and the lowers that show through, top first.

    `children`: its names that have a node. `redirect`: the upper's marker, if any.
    `orphaned`: it was removed while in use. `listing`: of its names, while a reader may continue it.
    `is_live`: others may change a lower that shows in it. `listed`: the versions of those at the last listing.
    """

    __slots__ = (
        "children",
        "is_live",
        "listed",
        "listing",
        "lowers",
        "name",
        "orphaned",
        "parent",
        "redirect",
        "upper",
    )

    kind: Final = stat.S_IFDIR

    def __init__(
        self,
        parent: Directory | None,
        name: bytes,
        upper: LayerDir | None,
        lowers: tuple[LayerDir, ...],
        redirect: bytes | None = None,
    ) -> None:
        super().__init__()
        self.parent = parent
        self.name = name
        self.upper = upper
        self.lowers = lowers
        self.redirect = redirect
        self.is_live = any(one.layer.live for one in lowers)
        self.listed: tuple[Version, ...] = ()
        self.children: dict[bytes, Node] = {}
        self.listing: Listing | None = None
        self.orphaned = False

    @property
    def in_use(self) -> bool:
        return self.nlookup > 0 or bool(self.children)

    @property
    def layer_dirs(self) -> Iterator[LayerDir]:
        """Its directories in the layers, top first."""
        if self.upper is not None:
            yield self.upper
        yield from self.lowers

    @property
    def top(self) -> LayerDir:
        """The directory whose metadata is shown."""
        return self.upper if self.upper is not None else self.lowers[0]

    @property
    def merged(self) -> bool:
        """Whether more than one layer shows in it."""
        return len(self.lowers) + (self.upper is not None) > 1

    def mark_copied_up(self, upper: LayerDir) -> None:
        """Note that it lies in the upper too. The lowers still show through."""
        self.upper = upper

    def mark_frozen(self) -> None:
        """Note that the upper is a lower from now on."""
        if self.upper is not None and not self.orphaned:
            self.lowers = (self.upper, *self.lowers)
            self.upper = self.redirect = None

    def mark_merged(self, lowers: tuple[LayerDir, ...]) -> None:
        """Note that other lowers show in it from now on."""
        self.lowers = lowers
        self.is_live = any(one.layer.live for one in lowers)

    def mark_redirected(self, redirect: bytes) -> None:
        """Note that its upper has this redirect."""
        self.redirect = redirect

    def names(self) -> tuple[bytes, ...]:
        """The names on the path from the root to it."""
        names = []
        current = self
        while current.parent is not None:
            names.append(current.name)
            current = current.parent
        return tuple(reversed(names))

    def path_in_lowers(self, name: bytes | None = None) -> bytes:
        """The path, from their roots, under which the lowers hold its contents, or a file `name` in it."""
        names = [] if name is None else [name]
        current = self
        while current.parent is not None:
            redirect = current.redirect
            if redirect is None:
                names.append(current.name)
            elif redirect.startswith(b"/"):
                names.append(redirect[1:])
                break
            else:
                names.append(redirect)
            current = current.parent
        return b"/" + b"/".join(reversed(names))

    def mark_listed(self, versions: tuple[Version, ...]) -> None:
        """Note the versions of its live lowers before they are listed; none: the kernel has no listing."""
        self.listed = versions

    def begin_listing(self, listing: Listing) -> None:
        self.listing = listing

    def drop_listing(self) -> None:
        """No reader needs the listing any more."""
        self.listing = None

    def mark_changed(self) -> None:
        """Mark its listing as out of date. Requires: called before a name in it changes."""
        if self.listing is not None:
            self.listing.outdated = True

    def mark_upper_written(self) -> None:
        """Note for its listing that the upper has new entries, if only by a copy-up. Requires: called before."""
        if self.listing is not None:
            self.listing.written_to = True

    def attach(self) -> None:
        """Add it to the parent's `children`."""
        if self.parent is not None:
            self.parent.children[self.name] = self

    def detach(self) -> None:
        """Remove it from the parent's `children`, if it is there."""
        if self.parent is not None and self.parent.children.get(self.name) is self:
            del self.parent.children[self.name]

    def move(self, parent: Directory, name: bytes) -> None:
        """Follow a rename of its upper. Requires: it is detached, and the new parent has an upper."""
        self.parent = parent
        self.name = name
        assert self.upper is not None
        self.upper.parent = parent.upper
        self.upper.name = name

    def orphan(self, kept: LayerDir | None) -> None:
        """Note that it was removed. `kept`: holds its upper from now on; None if it had none."""
        self.detach()
        if self.upper is not None:
            self.upper.close()
        self.upper = kept
        if kept is not None:
            self.lowers = ()
        self.orphaned = True

    def close(self) -> None:
        """Close the descriptors that only it uses."""
        for layer_dir in (self.upper,) if self.orphaned else tuple(self.layer_dirs):
            if layer_dir is not None:
                layer_dir.close()


Node: TypeAlias = File | Directory


class Plane(Protocol):
    """Answers requests about directories of lowers by itself, with nodes of its own."""

    def claim(self, nodeid: int) -> int:
        """Take a nodeid for a node of the table. Returns: the node's generation; 0: the plane has given it out."""

    def drop(self, nodeid: int) -> None:
        """Give back a nodeid that was claimed."""

    def fetch(self, directory: Directory, name: bytes) -> Node | None:
        """Take over the plane's node of that name, if it has one. Returns: it, in the table now."""

    def fetch_node(self, nodeid: int) -> None:
        """As `fetch`, of the node with that nodeid."""

    def names(self) -> dict[int, list[bytes]]:
        """The names of its nodes, by the nodeids of their directories."""

    def let_go(self, directory: Directory) -> None:
        """Close the directories of layers that show in one: others will. Requires: it is revoked."""

    def begin_leaving(self) -> None:
        """Prepare `leave`: the table takes over the directories that programs are reading."""

    def leave(self) -> None:
        """End answering for all directories and by all names: the layers are others from now on."""

    def revoke(self, directory: Directory) -> None:
        """End answering for a directory. Requires: called before it changes."""

    def unresolve(self, directory: Directory, name: bytes) -> None:
        """End answering by a name of a directory; by all, if it is empty. Requires: called before it changes."""

    @property
    def is_kept(self) -> bool:
        """Whether a later daemon may need what is noted here: else `note`, `keep` and `begin_rename` are not called."""

    def note(self, nodeid: int, above: int, name: bytes) -> None:
        """Note for a later daemon that a node is found under a name in a directory.

        `above`: 0 if it has none. `name`: then where it lies in a lower or in the index (`Lookup.adopt_left`), or
        nothing.
        """

    def keep(self, nodeid: int, fd: int) -> None:
        """Keep the inode of a node, open as `fd`, for a later daemon. Requires: called before its last name goes."""

    def begin_rename(
        self, above: int, name: bytes, onto: int, new_name: bytes, exchanged: int
    ) -> None:
        """Note a rename, until `end_rename`. `exchanged`: the inode that the first name leads to; 0 for none."""

    def end_rename(self) -> None:
        """End `begin_rename`, whether it was carried out or not."""


class Table:
    """All nodes, by nodeid, and files also by the real inodes they stand for.

    `plane`: who else has nodes of the same file system, or None. `expected`: the nodeid of the next node; 0: any.
    """

    def __init__(self) -> None:
        self.change_times = ChangeTimes()
        self.by_nodeid: dict[int, Node] = {}
        self.by_key: dict[int, File] = {}
        self.plane: Plane | None = None
        self.expected = 0
        self._free = FIRST_FREE
        self._generation = 0

    def __len__(self) -> int:
        return len(self.by_nodeid)

    # Nodes by nodeid

    def node(self, nodeid: int) -> Node:
        """Raises OSError (ESTALE) for a nodeid that was never given out, or forgotten."""
        node = self.by_nodeid.get(nodeid)
        if node is None:
            fail(errno.ESTALE)
        return node

    def directory(self, nodeid: int) -> Directory:
        """Raises OSError: ESTALE, ENOTDIR."""
        node = self.node(nodeid)
        if not isinstance(node, Directory):
            fail(errno.ENOTDIR)
        return node

    def file(self, nodeid: int) -> File:
        """Raises OSError: ESTALE, EISDIR."""
        node = self.node(nodeid)
        if isinstance(node, Directory):
            fail(errno.EISDIR)
        return node

    def forget(self, nodeid: int, count: int) -> None:
        """Take `count` lookups off, and drop the node if nothing uses it any more."""
        node = self.by_nodeid.get(nodeid)
        if node is not None and nodeid != ROOT_NODEID:
            node.nlookup -= count
            self.evict_if_unused(node)

    # New nodes

    def add(self, node: Node, preferred: int) -> None:
        """Give a node the nodeid `preferred`, or a free one if that is taken or 0."""
        nodeid, generation = self.expected or preferred, 0
        self.expected = 0
        if nodeid > ROOT_NODEID and nodeid not in self.by_nodeid:
            generation = self._claim(nodeid)
        while not generation:
            nodeid = self._free
            self._free += 1
            generation = self._claim(nodeid)
        node.nodeid = nodeid
        self.by_nodeid[nodeid] = node
        node.generation = generation

    def _claim(self, nodeid: int) -> int:
        """The generation of a new node; 0 if the nodeid is the plane's."""
        if self.plane is not None:
            return self.plane.claim(nodeid)
        self._generation = (self._generation + 1) % _GENERATIONS
        return _FIRST_GENERATION + self._generation

    def add_directory(self, node: Directory, preferred: int) -> None:
        """As `add`, and add it to its parent's children."""
        self.add(node, preferred)
        if node.parent is not None:
            self._vacate(node.parent, node.name)
        node.attach()
        self._note(node)

    def add_root(self, node: Directory) -> None:
        node.nodeid = ROOT_NODEID
        node.nlookup = 1  # the kernel never looks the root up, and never forgets it
        self.by_nodeid[ROOT_NODEID] = node

    def register(self, node: File) -> None:
        """Let the file be found by its real inodes."""
        for key in (node.key, node.lower_key):
            if key:
                self.by_key[key] = node

    # Names

    def link(self, node: File, directory: Directory, name: bytes) -> None:
        """Add a name to a file, unless it has it."""
        if directory.children.get(name) is not node:
            self._vacate(directory, name)
            node.add_link(directory, name)
            if len(node.links) == 1:
                self._note(node)

    def unlink(self, node: File, directory: Directory, name: bytes) -> None:
        """Drop a name of a file, if it has it."""
        if directory.children.get(name) is node:
            is_noted = node.links[0] == (directory, name)
            node.drop_link(directory, name)
            if is_noted:
                self._note(node)

    def retire(self, node: Node, directory: Directory, name: bytes) -> None:
        """Take a name from a node: a lower has something else there now. Programs that have it open keep it."""
        if isinstance(node, Directory):
            node.detach()
            return
        if len(node.links) <= 1:
            if node.inode >= 0:
                node.remember(os.fstat(node.inode))
            node.lose_lower()
        self.unhash(node)
        self.unlink(node, directory, name)

    def _vacate(self, directory: Directory, name: bytes) -> None:
        """Take a name from the node that has it: a layer, or a request, has put another file there."""
        other = directory.children.get(name)
        if isinstance(other, File):
            self.unlink(other, directory, name)
        elif other is not None:
            other.detach()

    @property
    def kept_plane(self) -> Plane | None:
        """The plane, where a later daemon may need what is noted there."""
        return self.plane if self.plane is not None and self.plane.is_kept else None

    def keep_inode(self, node: Node, fd: int) -> None:
        """Keep the inode of a node, open as `fd`, for a later daemon. Requires: called before its last name goes."""
        if self.kept_plane is not None:
            self.kept_plane.keep(node.nodeid, fd)

    def note_removal(self, node: File, directory: Directory, name: bytes) -> None:
        """Note for a later daemon where a file is found without a name. Requires: called before that goes."""
        if node.links[:1] == ((directory, name),):
            self._note(node, node.links[1:])

    def _note(self, node: Node, links: tuple[tuple[Directory, bytes], ...] | None = None) -> None:
        """Note for a later daemon where a node is found. `links`: of a file, the names to note; None: all it has."""
        plane = self.kept_plane
        if plane is None:
            return
        above, name = 0, b""
        if isinstance(node, Directory):
            if node.parent is not None and not node.orphaned:
                above, name = node.parent.nodeid, node.name
        elif named := node.links if links is None else links:
            directory, name = named[0]
            above = directory.nodeid
        elif node.index_name is not None:
            name = IN_INDEX + node.index_name
        elif not node.has_upper and node.lower_dir is not None:
            name = b"%d/%s" % (node.lower_dir.layer.number, node.lower_dir.path(node.lower_name))
        plane.note(node.nodeid, above, name)

    def move(
        self,
        node: Node,
        old_directory: Directory,
        old_name: bytes,
        new_directory: Directory,
        new_name: bytes,
    ) -> None:
        """Follow a rename. Requires: the new name has no node."""
        self._detach(node, old_directory, old_name)
        self._attach(node, new_directory, new_name)
        self.evict_if_unused(old_directory)

    def exchange(
        self,
        one: Node,
        one_directory: Directory,
        one_name: bytes,
        other: Node,
        other_directory: Directory,
        other_name: bytes,
    ) -> None:
        """Follow a rename that exchanged two names."""
        self._detach(one, one_directory, one_name)
        self._detach(other, other_directory, other_name)
        self._attach(one, other_directory, other_name)
        self._attach(other, one_directory, one_name)

    def _detach(self, node: Node, directory: Directory, name: bytes) -> None:
        if isinstance(node, Directory):
            node.detach()
        else:
            node.drop_link(directory, name)

    def _attach(self, node: Node, directory: Directory, name: bytes) -> None:
        if isinstance(node, Directory):
            node.move(directory, name)
            node.attach()
        else:
            node.add_link(directory, name)
        self._note(node)

    def give(self, node: File) -> None:
        """Note that the plane has taken a node over, and knows its change time."""
        del self.by_nodeid[node.nodeid]
        self.change_times.drop(node.nodeid)
        self.unhash(node)
        node.drop_links()

    def orphan(self, node: Directory, kept: LayerDir | None) -> None:
        """Note that a directory was removed: processes that have it open still see it, empty.

        `kept`: see `Directory.orphan`.
        """
        if self.plane is not None:
            self.plane.revoke(node)
        node.orphan(kept)
        self._note(node)
        self.evict_if_unused(node)

    def freeze(self, index: LayerDir) -> None:
        """Note that the upper is a lower from now on, and `index` the index of that.

        Requires: no request is under way, and no nameless file has other names.
        """
        for node in self.by_nodeid.values():
            if isinstance(node, File) and node.is_in_layer:
                self.unhash(node)
                node.mark_frozen(index)
                self.register(node)
        for node in self.by_nodeid.values():
            if isinstance(node, Directory):
                node.mark_frozen()

    # Gone

    def unhash(self, node: File) -> None:
        """Let the file no longer be found by its real inodes: their numbers may be reused."""
        for key in (node.key, node.lower_key):
            if self.by_key.get(key) is node:
                del self.by_key[key]

    def forget_lower(self, node: File) -> None:
        """Let the file no longer be found by its lower's inode."""
        if self.by_key.get(node.lower_key) is node:
            del self.by_key[node.lower_key]

    def evict_if_unused(self, node: Node) -> None:
        """Drop the node if nothing uses it any more, and the directories above that only it kept."""
        current: Node | None = node
        while current is not None and not current.in_use:
            if self.by_nodeid.get(current.nodeid) is not current:
                return
            del self.by_nodeid[current.nodeid]
            if self.plane is not None:
                self.plane.drop(current.nodeid)
            current = (
                self._drop_file(current)
                if isinstance(current, File)
                else self._drop_directory(current)
            )

    def close(self) -> None:
        """Close the descriptors that nodes without a name hold."""
        for node in self.by_nodeid.values():
            if isinstance(node, File):
                node.release_inode()
            elif node.orphaned:
                node.close()

    def _drop_file(self, node: File) -> Directory | None:
        if node.opened is not None:
            node.opened.end()
        self.unhash(node)
        if not node.links:
            self.change_times.drop(node.nodeid)
        node.release_inode()
        above = [directory for directory, _ in node.links]
        node.drop_links()
        for directory in above[1:]:
            self.evict_if_unused(directory)
        return above[0] if above else None

    def _drop_directory(self, node: Directory) -> Directory | None:
        node.close()
        if node.orphaned:
            return None
        node.detach()
        return node.parent
