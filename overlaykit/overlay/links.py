"""Counts of hard links whose file was copied up: stored at its entry in the index, relative to the inode's own.

Each count is stored before the change that it allows for, so that a crash leaves it right, or too high.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from overlaykit import _native

if TYPE_CHECKING:
    from overlaykit.overlay.nodes import Directory, File
    from overlaykit.overlay.tree import Tree


class Links:
    """Keeps the counts of indexed files right while names come and go."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def count_links(self, node: File, directory: Directory, name: bytes) -> int | None:
        """Before a name of a file goes: the count of an indexed file, whose name then has an entry in the upper.

        A hard-linked file of a lower is copied up for that, as in the kernel: the index is where the count is kept.
        """
        if self.is_copied_to_unlink(node):
            self._tree.copy_up(node)
        return self.link_up(node, directory, name)

    def link_up(self, node: File, directory: Directory, name: bytes) -> int | None:
        """Before a name of an indexed file changes: give it an entry in the upper, and do as `start_counting`.

        The lower may have changed (`host` can): then a crash between the two leaves the count too high.
        """
        if node.index_name is not None:
            layer_dir = self._tree.copyup.directory(directory)
            if _native.stat_or_none(layer_dir.fd(), name) is None:
                links = self._tree.links_of_origin(directory, name, node.index_name)
                if links is not None:
                    self._tree.copyup.count_links(node, links, to_upper=False)
                self._tree.copyup.link_up(node, directory, name)
        return self.start_counting(node)

    def is_copied_to_unlink(self, node: File) -> bool:
        """Whether the count of a file's names can be kept only by its copy in the index."""
        if node.has_upper or not self._tree.copyup.is_indexed(node.kind):
            return False
        st = self._tree.location(node).stat()
        if st.st_nlink == 1:
            return False
        return self._tree.copyup.origin(node.lower_dir, node.lower_name, st.st_dev) is not None

    def start_counting(self, node: File) -> int | None:
        """Before the links of an indexed file change: store its count so that it stays right when its upper's does.

        None if it is not indexed, or its count is not known (`expect_link` is for that).
        """
        if node.link_count is None:
            return None
        self._tree.copyup.modes.past(
            functools.partial(self._store_link_count, node, node.link_count)
        )
        return node.link_count

    def _store_link_count(self, node: File, count: int) -> None:
        location = self._tree.writable_location(node)
        self._tree.markers.set_link_count(
            location.path,
            count - location.stat().st_nlink,
            to_upper=True,
            follow=location.follow,
        )

    def expect_link(self, node: File) -> None:
        """Before a file gets a name: if it is indexed and its count not known, let the stored one allow for that.

        When a name goes, nothing need be stored: a count too high keeps an entry of the index, one too low drops the
        file.
        """
        if node.index_name is not None and node.link_count is None:
            self._tree.copyup.modes.past(functools.partial(self._expect_link, node))

    def _expect_link(self, node: File) -> None:
        location = self._tree.writable_location(node)
        difference = self._tree.markers.link_count(location.path, upper=0, lower=lambda: 0)
        if difference is not None:
            self._tree.markers.set_link_count(location.path, difference + 1, to_upper=False)
