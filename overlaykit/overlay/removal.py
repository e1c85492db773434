"""Removal of names: unlink and rmdir. One rename does it, so that a crash leaves the old or the new tree."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from overlaykit.overlay.failure import fail
from overlaykit.overlay.faults import reach
from overlaykit.overlay.nodes import Directory, File
from overlaykit.overlay.operation import operation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.links import Links
    from overlaykit.overlay.lookup import Lookup
    from overlaykit.overlay.nodes import Node
    from overlaykit.overlay.tree import Tree


class Removal:
    """Removes names from the merged tree."""

    def __init__(self, tree: Tree, lookup: Lookup, links: Links) -> None:
        self.modes = tree.modes
        self._tree = tree
        self._lookup = lookup
        self._links = links

    @operation
    def copied_to_unlink(self, directory: Directory, name: bytes) -> File | None:
        """The file that `name` means, if its removal takes a copy-up: a hard link whose names are counted."""
        if not self._tree.writable:
            return None
        found = self._lookup.find(directory, name)
        if found is None or not isinstance(found.node, File):
            return None
        return found.node if self._links.is_copied_to_unlink(found.node) else None

    @operation
    def unlink(self, directory: Directory, name: bytes) -> None:
        """Raises OSError: ENOENT, EISDIR, EROFS."""
        tree = self._tree
        node = self._lookup.require(directory, name)
        if isinstance(node, Directory):
            fail(errno.EISDIR, name)
        layer_dir = tree.writable_directory(directory, name)
        count = self._links.prepare_unlink(node, directory, name)
        self.keep_content(node, count)
        tree.table.note_removal(node, directory, name)
        reach("unlink.counted")
        if tree.needs_whiteout(directory, name):
            tree.whiteouts.hide(layer_dir, name)
        else:
            os.unlink(name, dir_fd=layer_dir.fd())
        reach("unlink.removed")
        tree.table.unlink(node, directory, name)
        self.forget_link(node, count)

    def unlink_below(self, directory: Directory, name: bytes, place: int) -> bytes:
        """As `unlink`, of a file that has no node and one name: the lower at the index `place` shows.

        Returns: the lower's index and the path in it; empty if nothing is done. Raises OSError, with nothing changed.
        """
        tree = self._tree
        if directory.upper is None or directory.orphaned or name in directory.children:
            return b""
        lower = directory.lowers[place]
        layer_dir = tree.writable_directory(directory, name)
        reach("unlink.counted")
        tree.whiteouts.hide_lower(layer_dir, name)
        reach("unlink.removed")
        return b"%d/%s" % (lower.layer.number, lower.path(name))

    @operation
    def rmdir(self, directory: Directory, name: bytes) -> None:
        """Raises OSError: ENOENT, ENOTDIR, ENOTEMPTY, EROFS."""
        tree = self._tree
        node = self._lookup.require(directory, name)
        if not isinstance(node, Directory):
            fail(errno.ENOTDIR, name)
        self.require_empty(node)
        layer_dir = tree.writable_directory(directory, name)
        whiteouts = tree.whiteouts
        with kept_directory(node, tree) as kept:
            if not tree.needs_whiteout(directory, name):
                whiteouts.remove_directory(layer_dir, name)
            elif node.upper is None:
                reach("rmdir.covered")
                whiteouts.hide(layer_dir, name)
            else:
                whiteouts.hide_directory(layer_dir, name)
            tree.table.orphan(node, kept)

    def require_empty(self, node: Directory) -> None:
        if self._tree.merge.entries(node):
            fail(errno.ENOTEMPTY, node.name)

    def keep_content(self, node: File, count: int | None) -> None:
        """Hold the inode of a file that loses its last known name, for the processes that have it open.

        `count`: of its names, if it is indexed. Requires: called before the removal.
        """
        if not node.has_upper or node.orphan >= 0 or len(node.links) > 1:
            return
        if node.index_name is None or (count is not None and count <= 1):
            node.keep_inode(self._tree.location(node).open(os.O_PATH))
            self._tree.table.keep_inode(node, node.orphan)
            node.remember(os.fstat(node.orphan))

    def forget_link(self, node: File, count: int | None) -> None:
        """Update the count of a file that lost a name, and drop what goes with the last one.

        `count`: before, if it is indexed. Does not raise OSError: the name is gone.
        """
        tree = self._tree
        if count is not None:
            node.set_link_count(count - 1)
            if count <= 1:
                self._links.drop_index(node)
        if not node.links and node.has_upper and not self._has_more_names(node):
            tree.table.unhash(node)
        # Of an open file the last handle gives back what it takes.
        if tree.quota is not None and node.orphan >= 0 and node.opened is None:
            tree.quota.give_back(os.fstat(node.orphan))
        tree.table.evict_if_unused(node)

    def _has_more_names(self, node: File) -> bool:
        try:
            return self._tree.attributes(node).link_count > 0
        except OSError:
            return False


@contextlib.contextmanager
def kept_directory(node: Node | None, tree: Tree) -> Iterator[LayerDir | None]:
    """A `LayerDir` that outlives the name of a directory's upper, if it has one. Closes it if the block fails."""
    kept = None
    if isinstance(node, Directory) and node.upper is not None:
        node.remember(node.upper.stat())
        kept = node.upper.orphan()
        tree.table.keep_inode(node, kept.fd())
    try:
        yield kept
    except BaseException:
        if kept is not None:
            kept.close()
        raise
    if kept is not None and tree.quota is not None:
        assert node is not None
        if node.last_seen is not None:
            tree.quota.remove_directory(node.last_seen)
