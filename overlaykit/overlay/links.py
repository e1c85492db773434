"""Hard links of files that are copied up: their entries in the index, and their link counts.

An indexed file's entry in the index is one more hard link of its copy, under a name that its origin gives. The count of
its names in the union is stored at that inode, as a difference to the inode's own count or to the lower's. Each count
is stored before the change that it allows for, so that a crash leaves it right, or too high.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from typing import TYPE_CHECKING

from overlaykit import attributes
from overlaykit.overlay.faults import reach
from overlaykit.overlay.marker_names import is_whiteout_device
from overlaykit.overlay.markers import origin_link_count

if TYPE_CHECKING:
    from overlaykit.overlay.markers import Markers, Origin
    from overlaykit.overlay.merge import Found
    from overlaykit.overlay.nodes import Directory, File
    from overlaykit.overlay.tree import Tree
    from overlaykit.overlay.work import Work


class LinkCounts:
    """Stores the counts of indexed files. Does nothing for a file that is not indexed."""

    def __init__(self, work: Work, markers: Markers) -> None:
        self._work = work
        self._markers = markers

    def store_to_upper(self, node: File) -> None:
        """Store the count, if it is known, so that it stays right when the upper's changes."""
        if node.index_name is not None and node.link_count is not None:
            st = os.stat(node.index_name, dir_fd=self._work.index.fd(), follow_symlinks=False)
            self._store(node.index_name, node.link_count - st.st_nlink, to_upper=True)

    def store_to_lower(self, node: File, links: int) -> None:
        """Store the count, if it is known, so that it stays right when the lower's, now `links`, does."""
        if node.index_name is not None and node.link_count is not None:
            self._store(node.index_name, node.link_count - links, to_upper=False)

    def expect_link(self, node: File) -> None:
        """Before a file gets a name: if its count is not known, let the stored one allow for that.

        When a name goes, nothing need be stored: a count too high keeps an entry of the index, one too low drops the
        file.
        """
        if node.index_name is not None and node.link_count is None:
            self._work.modes.past(functools.partial(self._expect_link, node.index_name))

    def _store(self, index_name: bytes, difference: int, *, to_upper: bool) -> None:
        def store() -> None:
            self._markers.set_link_count(self._path(index_name), difference, to_upper=to_upper)

        self._work.modes.past(store)

    def _expect_link(self, index_name: bytes) -> None:
        path = self._path(index_name)
        difference = self._markers.link_count(path, upper=0, lower=lambda: 0)
        if difference is not None:
            self._markers.set_link_count(path, difference + 1, to_upper=False)

    def _path(self, index_name: bytes) -> bytes:
        """The path of the entry, which can be read and written if modes are widened."""
        self._work.modes.widen(self._work.index.fd(), index_name)
        return self._work.index.proc_path(index_name)


class Links:
    """Keeps the index and its counts right while names come and go."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    # Reading

    def in_indexes(self, found: Found) -> tuple[Found, int | None]:
        """The file that a hard-linked one of a lower was copied up to in frozen layers above it, and its link count.

        Returns: `found` itself and None if it was not.
        """
        links = None
        for layer in reversed(self._tree.layers[: found.layer_dir.layer.index]):
            index = layer.frozen_index
            if index is None:
                continue
            origin = self._tree.origins.find(found.layer_dir, found.name, found.stat.st_dev)
            if origin is None:
                break
            name = origin.index_name()
            entry = attributes.stat_or_none(index.fd(), name)
            if entry is None or is_whiteout_device(entry):
                continue
            before = links or found.stat.st_nlink
            links = self._tree.markers.link_count(
                index.proc_path(name), upper=entry.st_nlink, lower=functools.partial(int, before)
            )
            found = found._replace(layer_dir=index, name=name, stat=entry)
        return found, links

    def count_in_frozen(self, directory: Directory, name: bytes, found: Found) -> int | None:
        """The link count of a file of a frozen layer that is in the layer's index; None if it is in none."""
        index = found.layer_dir.layer.frozen_index
        origin = self._tree.markers.origin(found.layer_dir.proc_path(found.name))
        if index is None or origin is None:
            return None
        entry = attributes.stat_or_none(index.fd(), origin.index_name())
        if entry is None or not os.path.samestat(entry, found.stat):
            return None
        return self._tree.markers.link_count(
            index.proc_path(origin.index_name()),
            upper=entry.st_nlink,
            lower=lambda: self.lower_link_count(directory, name, origin),
        )

    def index_entry(
        self, origin: Origin, *, same: os.stat_result | None = None
    ) -> os.stat_result | None:
        """The index's entry for an origin, if there is one; with `same` only if it is that inode."""
        tree = self._tree
        if not tree.has_index:
            return None
        try:
            entry = os.stat(origin.index_name(), dir_fd=tree.work.index.fd(), follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
                return None
            raise
        if is_whiteout_device(entry):
            return None
        return entry if same is None or os.path.samestat(entry, same) else None

    def lower_link_count(self, directory: Directory, name: bytes, origin: Origin) -> int | None:
        """The link count of the lower inode that an indexed file came from; None if it is not found."""
        links = self._links_of_origin(directory, name, origin.index_name())
        if links is not None:
            return links
        for layer in self._tree.layers:
            if (
                layer.writable
                or self._tree.origins.uuid(layer.root, layer.root.stat().st_dev) != origin.uuid
            ):
                continue
            root = layer.root.open_for_reading()
            try:
                links = origin_link_count(root, origin)
            finally:
                os.close(root)
            if links is not None:
                return links
        return None

    def _links_of_origin(self, directory: Directory, name: bytes, index_name: bytes) -> int | None:
        """The link count of the origin of the file with this entry in the index, if the lowers show it as `name`."""
        lower = self._tree.merge.find_in_lowers(directory, name)
        if lower is None:
            return None
        lower, links = self.in_indexes(lower)
        origin = self._tree.origins.find(lower.layer_dir, lower.name, lower.stat.st_dev)
        is_its = origin is not None and origin.index_name() == index_name
        return (links or lower.stat.st_nlink) if is_its else None

    def is_copied_to_unlink(self, node: File) -> bool:
        """Whether the count of a file's names can be kept only by its copy in the index."""
        if node.has_upper or not self._tree.copyup.is_indexed(node.kind):
            return False
        st = self._tree.location(node).stat()
        if st.st_nlink == 1:
            return False
        return (
            self._tree.copyup.origins.find(node.lower_dir, node.lower_name, st.st_dev) is not None
        )

    # Before a change

    def prepare_unlink(self, node: File, directory: Directory, name: bytes) -> int | None:
        """Before a name of a file goes: as `prepare_move`.

        A hard-linked file of a lower is copied up first, as in the kernel: the index is where the count is kept.
        """
        if self.is_copied_to_unlink(node):
            self._tree.copy_up(node)
        return self.prepare_move(node, directory, name)

    def prepare_move(self, node: File, directory: Directory, name: bytes) -> int | None:
        """Before a name of a file changes: give it an entry in the upper if the file is indexed, and store its count.

        Returns: the count; None if the file is not indexed, or its count is not known.

        The lower may have changed (`host` can): then a crash between the two leaves the count too high.
        """
        copyup = self._tree.copyup
        if node.index_name is not None:
            layer_dir = copyup.directory(directory, name)
            if attributes.stat_or_none(layer_dir.fd(), name) is None:
                links = self._links_of_origin(directory, name, node.index_name)
                if links is not None:
                    copyup.link_counts.store_to_lower(node, links)
                copyup.link_up(node, directory, name)
        copyup.link_counts.store_to_upper(node)
        return node.link_count

    def prepare_link(self, node: File) -> int | None:
        """Before a file in the upper gets a name: store its count. Returns: as `prepare_move`."""
        counts = self._tree.copyup.link_counts
        counts.store_to_upper(node)
        counts.expect_link(node)
        return node.link_count

    # After a change

    def drop_index(self, node: File) -> None:
        """Remove the index's entry of a file that lost its last name. Does not fail: an entry too many does no harm."""
        if node.index_name is not None:
            with contextlib.suppress(OSError):
                os.unlink(node.index_name, dir_fd=self._tree.work.index.fd())
            reach("index.dropped")
            node.drop_index()
