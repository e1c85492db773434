"""What the data plane (native/plane.c) may answer by itself, and what comes back from it.

A directory is granted if one plain directory of a lower is all that shows in it, once a request about it has reached
Python. The grant ends before the directory is copied up or removed. Nodes that the plane has given out cross to Python
when a request that names them does, or when Python looks their names up.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from overlaykit import _native
from overlaykit.overlay.nodes import Directory

if TYPE_CHECKING:
    from overlaykit.fuse.spec import MountOptions
    from overlaykit.overlay.filesystem import Filesystem
    from overlaykit.overlay.nodes import Node

_NO_ID: Final = 0xFFFFFFFF
_NANOSECONDS: Final = 1_000_000_000


class Plane:
    """Implements `overlay.nodes.Plane`. One per process, as the session is.

    `timeout`: how long the kernel may cache names and attributes, in seconds.
    """

    def __init__(
        self, filesystem: Filesystem, options: MountOptions, *, timeout: float, acl: bool
    ) -> None:
        self._filesystem = filesystem
        self._is_on = options.data_plane
        owners = filesystem.tree.owners
        ids = (owners.users, owners.groups)
        self._shows_owners = all(one.squash_to is None and not one.ranges for one in ids)
        uid, gid = (one.unmapped if one.unmapped >= 0 else _NO_ID for one in ids)
        seconds, rest = divmod(timeout, 1)
        _native.plane_start(
            int(seconds),
            int(rest * _NANOSECONDS),
            uid,
            gid,
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

    # For the overlay

    def claim(self, nodeid: int) -> int:
        return _native.plane_claim(nodeid)

    def drop(self, nodeid: int) -> None:
        _native.plane_drop(nodeid)

    def fetch(self, directory: Directory, name: bytes) -> Node | None:
        crossing = _native.plane_fetch(directory.nodeid, name)
        return None if crossing is None else self._adopt(*crossing)

    def fetch_node(self, nodeid: int) -> None:
        for crossing in _native.plane_fetch_node(nodeid):
            self._adopt(*crossing)

    def revoke(self, directory: Directory) -> None:
        if _native.plane_revoke(directory.nodeid):
            # A reader continues in the listing as it is now.
            self._filesystem.listings.get(directory, restart=True)

    # For the session

    def offer(self, directory: Directory) -> None:
        """Grant a directory, if it is one to grant and has not been granted yet."""
        if (
            not self._is_on
            or directory.upper is not None
            or len(directory.lowers) != 1
            or directory.orphaned
            or _native.plane_is_granted(directory.nodeid)
        ):
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

    def take_back(self) -> None:
        """Take over the nodes of the request that Python is to answer, and lookups that were held back."""
        for crossing in _native.plane_crossings():
            self._adopt(*crossing)
        for nodeid in _native.plane_forgotten():
            self._filesystem.nodes.forget(nodeid, 1)

    def held(self) -> dict[str, int]:
        """What it holds in memory, as `Filesystem.counts`."""
        names = ("nodes", "nlookup", "open_files", "directories")
        return dict(zip(names, _native.plane_held(), strict=True))

    def answered(self) -> int:
        """How many requests the plane has answered."""
        return sum(_native.plane_counts())

    def close(self) -> None:
        """Close the plane's descriptors."""
        _native.plane_close()

    def _adopt(
        self, above: int, name: bytes, nodeid: int, lookups: int, handles: list[int]
    ) -> Node | None:
        filesystem = self._filesystem
        node = None
        directory = filesystem.nodes.by_nodeid.get(above)
        if isinstance(directory, Directory):
            with contextlib.suppress(OSError):  # the lower has changed
                found = filesystem.lookup.find(directory, name)
                node = None if found is None else found.node
        if not _native.plane_crossed(nodeid) or node is None:
            return node
        node.count_lookup(lookups)
        for handle in handles:
            opened = 0
            with contextlib.suppress(OSError):
                opened = filesystem.files.open(filesystem.nodes.file(nodeid), os.O_RDONLY)
            _native.plane_bind(handle, opened)
        return node
