"""Names that go: unlink and rmdir. Each takes effect by one rename, so that a crash leaves the old or the new tree."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from overlaykit.overlay.faults import reach
from overlaykit.overlay.nodes import Directory
from overlaykit.overlay.tree import fail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.links import Links
    from overlaykit.overlay.nodes import File, Node
    from overlaykit.overlay.tree import Tree


class Removal:
    """Removes names from the merged tree."""

    def __init__(self, tree: Tree, links: Links) -> None:
        self._tree = tree
        self._links = links

    def unlink(self, directory: Directory, name: bytes) -> None:
        """Raises OSError: ENOENT, EISDIR, EROFS."""
        tree = self._tree
        node = tree.require(directory, name)
        if isinstance(node, Directory):
            fail(errno.EISDIR, name)
        layer_dir = tree.writable_directory(directory)
        count = self._links.count_links(node, directory, name)
        self.keep_content(node, count)
        reach("unlink.counted")
        if tree.needs_whiteout(directory, name):
            tree.whiteouts.hide(layer_dir, name)
        else:
            os.unlink(name, dir_fd=layer_dir.fd())
        reach("unlink.removed")
        tree.table.unlink(node, directory, name)
        self.forget_link(node, count)

    def rmdir(self, directory: Directory, name: bytes) -> None:
        """Raises OSError: ENOENT, ENOTDIR, ENOTEMPTY, EROFS."""
        tree = self._tree
        node = tree.require(directory, name)
        if not isinstance(node, Directory):
            fail(errno.ENOTDIR, name)
        self.require_empty(node)
        layer_dir = tree.writable_directory(directory)
        whiteouts = tree.whiteouts
        with kept_directory(node) as kept:
            if not tree.needs_whiteout(directory, name):
                whiteouts.remove_directory(layer_dir, name)
            elif node.upper is None:
                reach("rmdir.covered")
                whiteouts.hide(layer_dir, name)
            else:
                whiteouts.hide_directory(layer_dir, name)
            self.orphan_directory(node, kept)

    def require_empty(self, node: Directory) -> None:
        if self._tree.merge.entries(node):
            fail(errno.ENOTEMPTY, node.name)

    def keep_content(self, node: File, count: int | None) -> None:
        """Before a file loses a name: hold its inode if no other name of it is known, for those who have it open.

        `count`: of its names, if it is indexed.
        """
        if not node.has_upper or node.orphan >= 0 or len(node.links) > 1:
            return
        if node.index_name is None or (count is not None and count <= 1):
            node.orphan = self._tree.location(node).open(os.O_PATH)
            node.last_seen = os.fstat(node.orphan)

    def forget_link(self, node: File, count: int | None) -> None:
        """After a file lost a name: its count, and what goes with the last one. `count`: before, if it is indexed.

        The name is gone: nothing here may fail.
        """
        tree = self._tree
        if count is not None:
            node.link_count = count - 1
            if node.link_count <= 0 and node.index_name is not None:
                with contextlib.suppress(OSError):  # an entry too many does no harm
                    os.unlink(node.index_name, dir_fd=tree.work.index.fd())
                reach("index.dropped")
                node.index_name = None
        if not node.links and node.has_upper and not self._has_more_names(node):
            tree.table.unhash(node)
        tree.table.evict_if_unused(node)

    def _has_more_names(self, node: File) -> bool:
        try:
            return self._tree.attributes(node).link_count > 0
        except OSError:
            return False

    def orphan_directory(self, node: Directory, kept: LayerDir | None) -> None:
        """After a directory lost its name: processes that have it open still see it, empty."""
        tree = self._tree
        if node.parent is not None and node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]
        if node.upper is not None:
            node.upper.close()
        node.upper = kept
        if kept is not None:
            node.lowers = ()
        node.orphaned = True
        tree.table.evict_if_unused(node)


@contextlib.contextmanager
def kept_directory(node: Node | None) -> Iterator[LayerDir | None]:
    """A place that outlives the name of a directory's upper, if it has one; it goes if the block fails."""
    kept = None
    if isinstance(node, Directory) and node.upper is not None:
        node.last_seen = node.upper.stat()
        kept = node.upper.orphan()
    try:
        yield kept
    except BaseException:
        if kept is not None:
            kept.close()
        raise
