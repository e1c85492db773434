"""Nodes, and the table that gives out their node ids.

A node's number is both what FUSE calls its node id and what programs see as st_ino. It is derived from the inode that
holds the node's content at first (the origin), so it survives copy-up, rename, forgetting and remounting. Where that
number is taken (the file system reused an inode's number while the kernel still remembers the old node), a free one is
given.

Invariants: `Table.by_nodeid` holds every node the kernel may name; a node stands in it while the kernel counts lookups
of it, holds it open, or while nodes below it do. `Directory.children` maps the names under which such nodes are known.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlaykit.overlay.descriptors import Descriptors
    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.listing import Listing

ROOT_NODEID: Final = 1
"""FUSE's number of the root (include/uapi/linux/fuse.h: FUSE_ROOT_ID)."""

_LATE_AT_MOST: Final = 10 * 10**9
"""Nanoseconds."""

_MOST_CHANGE_TIMES: Final = 1 << 15
"""About 5 MiB of them."""

_FIRST_GENERATION: Final = 2
_GENERATIONS: Final = 1 << 31
"""The kernel keeps 32 bits of a generation; the root's is 0, and 1 has a meaning of its own (`_native.NAME_ONLY`)."""

_DEVICE_SHIFT: Final = 48
INODE_LIMIT: Final = 1 << _DEVICE_SHIFT
"""Inode numbers from here on cannot be carried."""
_FIRST_FREE: Final = 0x7FFF << _DEVICE_SHIFT


class Reopening(Protocol):
    """Where open files lie (`files.Files`)."""

    descriptors: Descriptors

    def may_reopen(self, opened: OpenFile, fd: int) -> bool: ...

    def reopen(self, opened: OpenFile) -> int: ...


class OpenFile:
    """The one descriptor behind every handle of a file, however often it is open.

    Copy-up swaps `fd`, so each handle reads the new bytes at once and none can write into a lower. While the file is
    idle its descriptor may be closed (`descriptors`); `fd` opens it again.

    `direct`: a handle bypasses the kernel's cache. `modified`: the modification time that writing is not to move (see
    `files`), or None. `asked_ns`: when the last change of it was asked for. `users`: how many threads use `fd` now.
    `unsynced`: bytes were written since the last sync. `failure`: the errno of a sync that the next one tells, or 0.
    """

    __slots__ = (
        "_fd",
        "_files",
        "asked_ns",
        "count",
        "direct",
        "failure",
        "handle",
        "identity",
        "modified",
        "node",
        "recent",
        "unsynced",
        "users",
        "writable",
    )

    def __init__(
        self, handle: int, node: File, fd: int, *, writable: bool, files: Reopening
    ) -> None:
        self.handle = handle
        self.node = node
        self.writable = writable
        self.count = 0
        self.direct = False
        self.modified: int | None = None
        self.asked_ns = 0
        self.recent = True
        self.users = 0
        self.unsynced = False
        self.failure = 0
        self.identity = (0, 0)
        self._fd = fd
        self._files = files
        files.descriptors.add(self)

    @property
    def fd(self) -> int:
        """The descriptor, valid until `Descriptors.trim`. Raises OSError (ESTALE) if the inode is out of reach."""
        if self._fd < 0:
            self._fd = self._files.reopen(self)
            self._files.descriptors.add(self)
        self.recent = True
        return self._fd

    @property
    def is_idle(self) -> bool:
        """Whether the descriptor is closed for now."""
        return self._fd < 0

    def evict(self) -> bool:
        if self.users or not self._files.may_reopen(self, self._fd):
            return False
        fd, self._fd = self._fd, -1
        os.close(fd)
        return True

    def close(self) -> None:
        """Close it for good. Raises OSError: a disk may refuse only now what was written."""
        if self._fd >= 0:
            self._files.descriptors.discard(self)
            fd, self._fd = self._fd, -1
            os.close(fd)

    def is_outdated(self, asked_ns: int) -> bool:
        """Whether a modification time that the kernel writes back has been replaced by one that a program has set.

        The kernel does so without a lock (fs/fuse/inode.c: fuse_flush_times): the old one may arrive last. What is much
        older is none of these: the clock was set.
        """
        return 0 < self.asked_ns - asked_ns < _LATE_AT_MOST

    def swap(self, fd: int) -> None:
        """Continue on the upper's descriptor `fd`."""
        self.close()
        self._fd = fd
        self._files.descriptors.add(self)
        self.writable = True


class File:
    """Anything but a directory: regular files, symlinks, devices, FIFOs, sockets.

    `links`: the names by which it is known, as (directory, name); empty once the last one was removed.
    `lower_dir`, `lower_name`: where its content lies in a lower, if it came from one.
    `key`, `lower_key`: the numbers of the real inodes it is found by (0: none).
    `has_upper`: its content lies in the upper: in the index under `index_name` if it has one, else under any of
    `links`, else behind the descriptor `orphan`.
    `metacopy`: but for its data, which are the lower's still: of a regular file without a name, whose metadata were
    changed. `orphan` can then be written to, and has the file's size as a hole.
    `generation`: no other node that has had its number has had it too.
    `has_origin`: it came from a lower, whether that can still be found or not.
    `last_seen`: its attributes right before its last known name went, or None: not every file system tells them later.
    `link_count`: the union's count where it is not the real inode's own (indexed hard links), else None.
    """

    __slots__ = (
        "generation",
        "has_origin",
        "has_upper",
        "index_name",
        "key",
        "kind",
        "last_seen",
        "link_count",
        "links",
        "lower_dir",
        "lower_key",
        "lower_name",
        "metacopy",
        "nlookup",
        "nodeid",
        "opened",
        "orphan",
    )

    def __init__(self, kind: int) -> None:
        self.nodeid = 0
        self.generation = 0
        self.nlookup = 0
        self.kind = kind
        self.key = 0
        self.lower_key = 0
        self.links: tuple[tuple[Directory, bytes], ...] = ()
        self.lower_dir: LayerDir | None = None
        self.lower_name = b""
        self.has_upper = False
        self.has_origin = False
        self.index_name: bytes | None = None
        self.link_count: int | None = None
        self.opened: OpenFile | None = None
        self.orphan = -1
        self.metacopy = False
        self.last_seen: os.stat_result | None = None

    @property
    def in_use(self) -> bool:
        return self.nlookup > 0 or self.opened is not None

    def needs_copy(self, *, metadata_only: bool = False) -> bool:
        """Whether a copy-up must come before a change: of its metadata, or also of its data."""
        return not self.has_upper or (self.metacopy and not metadata_only)

    @property
    def inode(self) -> int:
        """The descriptor of its inode, if the open file has one now; else -1."""
        if self.opened is None or self.opened.is_idle or self.metacopy:
            return -1
        return self.opened.fd

    def drop_link(self, directory: Directory, name: bytes) -> None:
        """Raises ValueError if it has no such name."""
        at = self.links.index((directory, name))
        self.links = self.links[:at] + self.links[at + 1 :]


class Directory:
    """A merged directory: an upper (or none yet) and the lowers that show through, top first.

    `redirect`: the mark on the upper, if any. `orphaned`: it was removed while in use. `last_seen`: as of a `File`.
    `listing`: of its names, while it may be read on.
    `generation`: as of a `File`.
    """

    __slots__ = (
        "children",
        "generation",
        "last_seen",
        "listing",
        "lowers",
        "name",
        "nlookup",
        "nodeid",
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
        self.nodeid = 0
        self.generation = 0
        self.nlookup = 0
        self.parent = parent
        self.name = name
        self.upper = upper
        self.lowers = lowers
        self.redirect = redirect
        self.children: dict[bytes, Node] = {}
        self.listing: Listing | None = None
        self.orphaned = False
        self.last_seen: os.stat_result | None = None

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


Node: TypeAlias = File | Directory


class Numbering:
    """Real inodes, (st_dev, st_ino), as numbers of 64 bits. The first device's inodes keep theirs."""

    def __init__(self) -> None:
        self._bases: dict[int, int] = {}

    def base(self, device: int) -> int:
        """What a device adds to its inode numbers below `INODE_LIMIT`; -1 if there are too many devices."""
        base = self._bases.get(device)
        if base is None:
            index = len(self._bases)
            base = index << _DEVICE_SHIFT if index < _FIRST_FREE >> _DEVICE_SHIFT else -1
            self._bases[device] = base
        return base

    def key(self, device: int, inode: int) -> int:
        """The number for a real inode; 0 if it has none (its own is too large)."""
        base = self.base(device)
        return base | inode if base >= 0 and inode < INODE_LIMIT else 0


class ChangeTimes:
    """Change times of regular files as the kernel has shown them, in nanoseconds, by node number.

    The kernel keeps the change time of a regular file itself while it knows the file, and a disk takes none: it has the
    time at which the change was written back. So the kernel is given its own again when it asks after it has
    forgotten the file. Of the last ones that were told, `_MOST_CHANGE_TIMES` are kept, until the mount ends.
    """

    def __init__(self) -> None:
        self._told: dict[int, int] = {}

    def tell(self, number: int, changed: int) -> None:
        self._told.pop(number, None)
        self._told[number] = changed
        if len(self._told) > _MOST_CHANGE_TIMES:
            del self._told[next(iter(self._told))]

    def keep(self, number: int, changed: int) -> None:
        """What the kernel knows from an inode that is replaced by another one."""
        if number not in self._told:
            self.tell(number, changed)

    def get(self, number: int, otherwise: int) -> int:
        return self._told.get(number, otherwise)

    def drop(self, number: int) -> None:
        """The number may be another file's from now on."""
        self._told.pop(number, None)


class Table:
    """All nodes, by number and files also by the real inodes they stand for."""

    def __init__(self) -> None:
        self.change_times = ChangeTimes()
        self.by_nodeid: dict[int, Node] = {}
        self.by_key: dict[int, File] = {}
        self._free = _FIRST_FREE
        self._generation = 0

    def __len__(self) -> int:
        return len(self.by_nodeid)

    def add(self, node: Node, preferred: int) -> None:
        """Take a node up under the number `preferred`, or a free one where that is taken or none (0)."""
        number = preferred
        if number <= ROOT_NODEID or number in self.by_nodeid:
            number = self._free
            self._free += 1
        node.nodeid = number
        self.by_nodeid[number] = node
        node.generation = _FIRST_GENERATION + self._generation
        self._generation = (self._generation + 1) % _GENERATIONS

    def add_root(self, node: Directory) -> None:
        node.nodeid = ROOT_NODEID
        node.nlookup = 1  # the kernel never looks the root up, and never forgets it
        self.by_nodeid[ROOT_NODEID] = node

    def link(self, node: File, directory: Directory, name: bytes) -> None:
        """Know a file by one more name."""
        if directory.children.get(name) is not node:
            directory.children[name] = node
            node.links += ((directory, name),)

    def unlink(self, node: File, directory: Directory, name: bytes) -> None:
        """Know a file no longer by this name."""
        if directory.children.get(name) is node:
            del directory.children[name]
            node.drop_link(directory, name)

    def register(self, node: File, *keys: int) -> None:
        """Find the file by these real inodes from now on."""
        for key in keys:
            if key:
                self.by_key[key] = node

    def unhash(self, node: File) -> None:
        """Its inode is gone from the disk: the inode number may be reused."""
        for key in (node.key, node.lower_key):
            if self.by_key.get(key) is node:
                del self.by_key[key]

    def forget_lower(self, node: File) -> None:
        """Find the file no longer by its lower's inode."""
        if self.by_key.get(node.lower_key) is node:
            del self.by_key[node.lower_key]

    def evict_if_unused(self, node: Node) -> None:
        """Drop the node, and the directories above that were kept only for it, if nothing uses it any more."""
        current: Node | None = node
        while current is not None and not current.in_use:
            if self.by_nodeid.get(current.nodeid) is not current:
                return
            del self.by_nodeid[current.nodeid]
            current = (
                self._drop_file(current)
                if isinstance(current, File)
                else self._drop_directory(current)
            )

    def _drop_file(self, node: File) -> Directory | None:
        self.unhash(node)
        if not node.links:
            self.change_times.drop(node.nodeid)
        if node.orphan >= 0:
            os.close(node.orphan)
            node.orphan = -1
        above = [directory for directory, _ in node.links]
        for directory, name in node.links:
            del directory.children[name]
        node.links = ()
        for directory in above[1:]:
            self.evict_if_unused(directory)
        return above[0] if above else None

    def _drop_directory(self, node: Directory) -> Directory | None:
        if node.orphaned:
            if node.upper is not None:
                node.upper.close()
            return None
        for layer_dir in node.layer_dirs:
            layer_dir.close()
        if node.parent is not None and node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]
        return node.parent
