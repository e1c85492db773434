"""What the data plane (native/plane.c) may answer by itself, and what comes back from it.

A directory is granted for reading if one plain directory of a lower is all that shows in it, once a request about it
has reached Python. The grant ends before the directory is copied up or removed. A directory of the upper is granted for
changes of names that no lower has in it. Nodes that the plane has given out cross to Python when a request that names
them does, or when Python looks their names up.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from overlaykit import _native
from overlaykit.fuse.statistics import of_opcodes
from overlaykit.overlay.nodes import Directory

if TYPE_CHECKING:
    from overlaykit.fuse.spec import MountOptions
    from overlaykit.fuse.statistics import Latencies
    from overlaykit.overlay.filesystem import Filesystem
    from overlaykit.overlay.nodes import Node

_NO_ID: Final = 0xFFFFFFFF
_NANOSECONDS: Final = 1_000_000_000
_OWN_HANDLE: Final = 1 << 61
"""native/plane.c: OUR_HANDLE."""
_MOST_LOWERS: Final = 8
"""Directories in which more lowers show are not granted for changes: each name is looked for in all of them."""


class Plane:
    """Implements `overlay.nodes.Plane`. One per process, as the session is.

    `timeout`: how long the kernel may cache names and attributes, in seconds.
    """

    def __init__(
        self, filesystem: Filesystem, options: MountOptions, *, timeout: float, acl: bool
    ) -> None:
        self._filesystem = filesystem
        # Without an upper each file that is opened is the kernel's (`passthrough`), which Python registers.
        registers_all = filesystem.root.upper is None and not filesystem.files.writes_back
        self._is_on = options.data_plane and not registers_all
        owners = filesystem.tree.owners
        ids = (owners.users, owners.groups)
        self._shows_owners = all(one.squash_to is None and not one.ranges for one in ids)
        users, groups = ids
        seconds, rest = divmod(timeout, 1)
        _native.plane_start(
            int(seconds),
            int(rest * _NANOSECONDS),
            (_id(users.unmapped), _id(groups.unmapped)),
            (_id(users.unmapped_in_upper), _id(groups.unmapped_in_upper)),
            options.static_nlink,
            options.xattr,
            acl,
            len(os.sched_getaffinity(0)) > 1,
            filesystem.shares.plane,
            filesystem.shares.plane,
        )
        numbering = filesystem.lookup.numbering
        for device, inode in filesystem.tree.merge.traps:
            _native.plane_claim(numbering.key(device, inode))  # a lookup of them fails
        filesystem.nodes.plane = self
        tree = filesystem.tree
        self._upper_device = -1
        if (
            self._is_on
            and self._shows_owners
            and filesystem.root.upper is not None
            and tree.layers[0].override is None
            and not tree.layers[0].idmapped
            and tree.quota is None
            and filesystem.files.writes_back
            and not options.by_project
            and not options.dirsync
        ):
            self._upper_device = filesystem.root.upper.stat().st_dev

    # For the overlay

    def claim(self, nodeid: int) -> int:
        return _native.plane_claim(nodeid)

    def drop(self, nodeid: int) -> None:
        _native.plane_drop(nodeid)

    def fetch(self, directory: Directory, name: bytes) -> Node | None:
        node = None
        for crossing in _native.plane_fetch(directory.nodeid, name):
            node = self._adopt(*crossing)
        return node

    def fetch_node(self, nodeid: int) -> None:
        for crossing in _native.plane_fetch_node(nodeid):
            self._adopt(*crossing)

    def revoke(self, directory: Directory) -> None:
        if _native.plane_revoke(directory.nodeid):
            # A reader continues in the listing as it is now.
            self._filesystem.listings.get(directory, restart=True)

    # For the session

    def offer(self, directory: Directory) -> None:
        """Grant a directory, if it is one to grant and has not been granted yet: one of the upper alone for changes."""
        if not self._is_on or directory.orphaned or _native.plane_is_granted(directory.nodeid):
            return
        if directory.upper is not None:
            if not directory.lowers:
                self.offer_changes(directory)
            return
        if len(directory.lowers) != 1:
            return
        (lower,) = directory.lowers
        layer = lower.layer
        if not self._shows_owners or layer.idmapped or layer.override is not None:
            return
        try:
            base = self._filesystem.lookup.numbering.base(lower.stat().st_dev)
            if base >= 0:
                lists = self._filesystem.entries.lists_files(lower)
                _native.plane_grant(
                    directory.nodeid,
                    (directory.parent or directory).nodeid,
                    lower.fd(),
                    base,
                    lists,
                    lists and layer.mounted_in == frozenset(),
                )
        except OSError:  # a request says what fails
            return

    def offer_changes(self, directory: Directory) -> None:
        """Grant a directory for changes, if it is one to grant and has not been granted yet."""
        upper = directory.upper
        if (
            self._upper_device < 0
            or upper is None
            or directory.orphaned
            or len(directory.lowers) > _MOST_LOWERS
            or _native.plane_is_granted(directory.nodeid)
        ):
            return
        try:
            device = upper.stat().st_dev
            base = self._filesystem.lookup.numbering.base(device)
            if device != self._upper_device or base < 0:
                return
            lowers = [lower.fd() for lower in directory.lowers]
            _native.plane_grant_changes(directory.nodeid, upper.fd(), base, lowers)
        except OSError:  # a request says what fails
            return

    def note_changes(self, directory: Directory) -> bool:
        """Note for a directory's listing what the plane has changed in it.

        Returns: whether it is granted for changes, so that a listing gives names only: a node that Python knows is the
        plane's no more.
        """
        is_granted, is_changed = _native.plane_changed(directory.nodeid)
        if is_changed:
            directory.mark_changed()
            directory.mark_upper_written()
        return is_granted

    def descriptor(self, handle: int) -> int:
        """A descriptor of a file that the plane has open, the caller's to close; -1 if it is not the plane's.

        Raises: OSError.
        """
        return _native.plane_descriptor(handle) if handle & _OWN_HANDLE else -1

    def take_back(self) -> None:
        """Take over the nodes of the request that Python is to answer, and what the plane has kept of others."""
        for crossing in _native.plane_crossings():
            self._adopt(*crossing)
            self._filesystem.between_operations()  # many directories may cross at once
        nodes = self._filesystem.nodes
        for nodeid, changed in _native.plane_forgotten():
            if changed:
                nodes.change_times.record(nodeid, changed)
            else:
                nodes.forget(nodeid, 1)

    def held(self) -> dict[str, int]:
        """What it holds in memory, as `Filesystem.counts`."""
        names = ("nodes", "nlookup", "open_files", "directories")
        return dict(zip(names, _native.plane_held(), strict=True))

    def answered(self) -> int:
        """How many requests the plane has answered."""
        return sum(one.count for one in self.latencies().values())

    def latencies(self) -> dict[str, Latencies]:
        """How many of each kind, and how long they took."""
        return of_opcodes(_native.plane_counts())

    def close(self) -> None:
        """Close the plane's descriptors."""
        _native.plane_close()

    def _adopt(
        self,
        above: int,
        name: bytes,
        nodeid: int,
        lookups: int,
        handles: list[tuple[int, bool]],
        changed: int,
        state: tuple[int | None, int, int, bool],
        inode: int,
        is_made: bool,
    ) -> Node | None:
        filesystem = self._filesystem
        node: Node | None = None
        directory = filesystem.nodes.by_nodeid.get(above)
        with contextlib.suppress(OSError):  # the lower has changed
            if inode >= 0:
                node = filesystem.lookup.adopt_nameless(inode)
            elif is_made and isinstance(directory, Directory):
                node = filesystem.lookup.adopt_made(directory, name)
            elif name and isinstance(directory, Directory):
                found = filesystem.lookup.find(directory, name)
                node = None if found is None else found.node
        if not _native.plane_crossed(nodeid) or node is None:
            return node
        node.count_lookup(lookups)
        if changed:
            filesystem.nodes.change_times.record(nodeid, changed)
        for handle, is_writing in handles:
            opened = 0
            with contextlib.suppress(OSError):
                file = filesystem.nodes.file(nodeid)
                opened = filesystem.files.open(file, os.O_RDWR if is_writing else os.O_RDONLY)
                filesystem.files.by_handle[opened].continue_from(*state)
            _native.plane_bind(handle, opened)
        return node


def _id(number: int) -> int:
    """An id of `owners.Ids`, -1 for none, as the plane takes it."""
    return number if number >= 0 else _NO_ID
