"""Entries of listings: the nodeids and nodes of the names in a directory, for readdir."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from overlaykit.overlay.failure import fail
from overlaykit.overlay.lookup import Result
from overlaykit.overlay.numbering import INODE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.lookup import Lookup
    from overlaykit.overlay.merge import Entry
    from overlaykit.overlay.nodes import Directory, Node
    from overlaykit.overlay.tree import Tree

_FILES: Final = frozenset(
    (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
)
_NOT_TRUSTED: Final = (0, frozenset[int]())


class Entries:
    """Reads the entries of directories. `bound`: modes of lowers bind the daemon."""

    def __init__(self, tree: Tree, lookup: Lookup, *, bound: bool) -> None:
        self._tree = tree
        self._lookup = lookup
        self._bound = bound

    def read(self, directory: Directory) -> list[Entry]:
        """The directory as it is now."""
        return [] if directory.orphaned else self._tree.merge.entries(directory)

    def look_up(self, directory: Directory, entry: Entry) -> Result | None:
        """The node of an entry of a listing; None if it has gone since.

        Raises OSError: EACCES. No mode is widened, since there are many entries.
        """
        name, _, layer_dir, _ = entry
        node = directory.children.get(name)
        if self._bound and not os.access(layer_dir.proc_path(), os.X_OK):
            fail(errno.EACCES, name)
        plane = self._tree.table.plane
        if node is None and plane is not None:
            node = plane.fetch(directory, name)
        if node is not None:
            if self._lookup.is_current(directory, name, node):
                return Result(node, None)
            return self._lookup.find(directory, name)
        if directory.orphaned:  # its lowers are out of reach
            return None
        listing = directory.listing
        written_to = listing is None or listing.written_to
        found = self._tree.merge.find_below(directory, entry, written_to=written_to)
        return None if found is None else self._lookup.get_or_create(directory, name, found)

    def nodeids(self, directory: Directory, entries: Iterable[Entry]) -> Iterator[int]:
        """The nodeid that the node of each entry has or would get, without a stat(2) of it.

        0 if only `look_up` finds it: of directories without a node, and where d_ino is not trusted.
        """
        children = directory.children
        by_key, by_nodeid = self._tree.table.by_key, self._tree.table.by_nodeid
        trusted: dict[LayerDir, tuple[int, frozenset[int]]] = {}
        last: LayerDir | None = None
        base, kinds = _NOT_TRUSTED
        for name, kind, layer_dir, inode in entries:
            node: Node | None = children.get(name)
            nodeid = 0
            if node is None:
                if layer_dir is not last:
                    if layer_dir not in trusted:
                        trusted[layer_dir] = self._is_d_ino_trusted(layer_dir)
                    last, (base, kinds) = layer_dir, trusted[layer_dir]
                if kind in kinds and inode < INODE_LIMIT:
                    nodeid = base | inode
                    node = by_key.get(nodeid)
            if node is not None:
                yield node.inode_number if node.kind == kind else 0
            else:
                yield 0 if nodeid in by_nodeid else nodeid

    def lists_files(self, layer_dir: LayerDir) -> bool:
        """Whether a listing of a lower's directory gives the nodeids of regular files."""
        return stat.S_IFREG in self._is_d_ino_trusted(layer_dir)[1]

    def _is_d_ino_trusted(self, layer_dir: LayerDir) -> tuple[int, frozenset[int]]:
        """`Numbering.base` in a layer's directory, and the kinds of files whose nodeids its d_ino give.

        Never directories: the nodeid of a merged one comes from another layer's inode.
        """
        tree = self._tree
        try:
            device = layer_dir.stat().st_dev
            base = self._lookup.numbering.base(device)
            if base < 0 or not layer_dir.layer.lists_inodes(device, layer_dir):
                return _NOT_TRUSTED
            if layer_dir.layer.writable or layer_dir.layer.frozen:
                pure = not tree.markers.is_impure(layer_dir.proc_path())
                return (base, _FILES) if pure else _NOT_TRUSTED
            if not tree.writable:
                return base, _FILES
            if tree.copyup.origins.uuid(layer_dir, device) is None:
                return _NOT_TRUSTED
        except OSError:  # `look_up` finds it
            return _NOT_TRUSTED
        # Two hard links of another kind are two files once one of them is copied up.
        return base, frozenset(filter(tree.copyup.is_indexed, _FILES))
