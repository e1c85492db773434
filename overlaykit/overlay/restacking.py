"""Other lowers under running programs: directories keep their nodes, open files what they had.

What changes is what lies in the layers that come or go. So their trees are walked, as far as the kernel knows the
directories in them: a directory's lowers are found again, and each name that such a layer has in it, or hides, is given
back to the caller, to have the kernel ask for it. A file whose name leads to another one, or to nothing, stays without
that name as long as it is in use.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from overlaykit import attributes
from overlaykit.overlay import features, overrides
from overlaykit.overlay.copyup import Origins
from overlaykit.overlay.failure import fail
from overlaykit.overlay.layer import Layer, LayerDir
from overlaykit.overlay.marker_names import AUFS_WHITEOUT
from overlaykit.overlay.nodes import Directory, File
from overlaykit.overlay.opened import OpenedLayer
from overlaykit.scope import suppress

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from overlaykit.overlay.descriptors import Descriptors
    from overlaykit.overlay.filesystem import Filesystem
    from overlaykit.overlay.nodes import Node, Table
    from overlaykit.overlay.tree import Tree


class Restacking:
    """Replaces the lowers of a mount. Owns the layers that have gone, until no node needs them."""

    def __init__(self, filesystem: Filesystem, descriptors: Descriptors) -> None:
        self._filesystem = filesystem
        self._tree: Tree = filesystem.tree
        self._table: Table = filesystem.nodes
        self._descriptors = descriptors
        self._gone: list[Layer] = []
        self._names: dict[int, list[bytes]] = {}

    def close(self) -> None:
        for layer in self._gone:
            layer.close()

    def replace(self, lowers: Sequence[int | OpenedLayer]) -> list[tuple[int, set[bytes]]]:
        """Have other lowers, top first: those at indexes of the present ones, and new ones, which are taken over.

        Returns: the names that may lead elsewhere now, by the nodeids of their directories. Requires: no request is
        under way. Raises: OSError, with nothing changed.
        """
        tree = self._tree
        recorded = tree.markers.recorded or frozenset()
        if features.METACOPY in recorded:
            fail(errno.EOPNOTSUPP, b"files in the upper have their data in the layers below")
        present = [layer for layer in tree.layers if not layer.writable]
        number = max(layer.number for layer in tree.layers)
        added: list[Layer] = []
        layers = [layer for layer in tree.layers if layer.writable]
        for one in lowers:
            if isinstance(one, OpenedLayer):
                number += 1
                added.append(self._layer(one, number, present))
                layers.append(added[-1])
            else:
                layers.append(present[one])
        gone = [layer for layer in present if layer not in layers]
        self._copy_up_written()
        plane = self._table.plane
        self._names = {} if plane is None else plane.names()
        walked: dict[Directory, set[bytes] | None] = {}
        self._walk(tree.root, [layer.root for layer in (*added, *gone)], walked)
        for node in list(self._table.by_nodeid.values()):
            if isinstance(node, Directory) and node.redirect is not None and not node.orphaned:
                self._walk_all(node, walked)
        tree.layers[:] = layers
        for index, layer in enumerate(layers):
            layer.index = index
        tree.origins = Origins([layer for layer in layers if not layer.writable])
        if tree.writable:
            tree.copyup.begin_again(layers[1:], tree.copyup.originals)
            tree.origins = tree.copyup.origins
        self._filesystem.lookup.learn_devices()
        changed = self._find_again(walked)
        self._gone += gone
        self._close_gone()
        return changed

    def _layer(self, opened: OpenedLayer, number: int, present: Sequence[Layer]) -> Layer:
        layer = Layer(
            opened.fd,
            number,
            path=opened.path,
            writable=False,
            descriptors=self._descriptors,
            mounted_in=opened.mounted_in,
            idmapped=opened.idmapped,
            lock=opened.lock,
        )
        layer.reader = present[-1].reader
        layer.names_disk = present[-1].names_disk
        layer.override = overrides.find(layer.root.proc_path(), allow_user=False)
        return layer

    def _copy_up_written(self) -> None:
        """Copy up the files of lowers that are open for writing: the next write may find them without a name."""
        for opened in list(self._filesystem.files.by_handle.values()):
            if opened.opener and opened.node.links and opened.node.needs_copy():
                self._filesystem.copyup.file(opened.node)

    # Before

    def _walk(
        self,
        directory: Directory,
        layer_dirs: Sequence[LayerDir],
        walked: dict[Directory, set[bytes] | None],
    ) -> None:
        """Note the names of a directory that its `layer_dirs` have or hide, and of those below it."""
        pending = [(directory, list(layer_dirs))]
        while pending:
            node, dirs = pending.pop()
            if node in walked and walked[node] is None:
                continue
            if any(self._hides_all(one) for one in dirs):
                self._walk_all(node, walked)
                continue
            names: set[bytes] = set()
            kinds: dict[bytes, list[LayerDir]] = {}
            for one in dirs:
                for portion in one.scan():
                    for name, kind, _ in portion:
                        names.add(name.removeprefix(AUFS_WHITEOUT))
                        if kind in (0, stat.S_IFDIR):
                            kinds.setdefault(name, []).append(one.child(name))
            self._take_over(node)
            walked[node] = names
            for name in names:
                child = node.children.get(name)
                if not isinstance(child, Directory):
                    continue
                below = [one for one in kinds.get(name, ()) if _is_directory(one)]
                if len(below) == len([one for one in dirs if _has(one, name)]) and below:
                    pending.append((child, below))
                else:  # a file or a whiteout hides what is below
                    self._walk_all(child, walked)

    def _walk_all(self, directory: Directory, walked: dict[Directory, set[bytes] | None]) -> None:
        """Note that all names of a directory and of those below it may lead elsewhere."""
        pending = [directory]
        while pending:
            node = pending.pop()
            self._take_over(node)
            walked.pop(node, None)
            walked[node] = None
            pending += [one for one in node.children.values() if isinstance(one, Directory)]

    def _take_over(self, directory: Directory) -> None:
        """Take the nodes in a directory over from the plane, and end its grant."""
        plane = self._table.plane
        if plane is not None:
            for name in self._names.get(directory.nodeid, ()):
                plane.fetch(directory, name)
            plane.revoke(directory)
            plane.let_go(directory)
        directory.mark_changed()
        directory.mark_upper_written()

    def _hides_all(self, layer_dir: LayerDir) -> bool:
        """Whether a directory hides all that other layers have there, or shows what they have elsewhere."""
        markers = self._tree.merge.directory_markers(layer_dir)
        return markers.opaque or markers.redirect is not None

    # After

    def _find_again(
        self, walked: dict[Directory, set[bytes] | None]
    ) -> list[tuple[int, set[bytes]]]:
        tree = self._tree
        changed: list[tuple[int, set[bytes]]] = []
        for node in sorted(walked, key=_depth):
            names = walked[node]
            if node.orphaned:
                continue
            if node.parent is None:
                roots = tuple(layer.root for layer in tree.layers if not layer.writable)
                node.mark_merged(tree.merge.down_to_opaque(roots))
            else:
                found = tree.merge.find(node.parent, node.name)
                if found is None or not found.is_directory:
                    self._lose(node)
                    continue
                before = node.lowers
                node.mark_merged(found.lowers)
                for layer_dir in before:
                    if layer_dir.parent is not None:
                        layer_dir.close()
            if names is None:
                names = set(node.children)
                for layer_dir in node.layer_dirs:
                    names |= set(tree.merge.names_in(layer_dir))
            for name in names & node.children.keys():
                child = node.children[name]
                if isinstance(child, File):
                    self._find_file(node, name, child)
            changed.append((node.nodeid, names))
        return changed

    def _lose(self, directory: Directory) -> None:
        """Let go of a directory that no layer shows any more, and of what is below it."""
        for name, child in list(directory.children.items()):
            if isinstance(child, Directory):
                self._lose(child)
            else:
                self._unlink(directory, name, child)
        if directory.nodeid in self._table.by_nodeid:
            self._table.orphan(directory, None)

    def _find_file(self, directory: Directory, name: bytes, node: File) -> None:
        """Let a file lose a name that leads elsewhere now."""
        found = self._tree.merge.find(directory, name)
        if found is not None and not found.is_directory:
            found = self._filesystem.lookup.indexed(found)[0]
            key = self._filesystem.lookup.numbering.key(found.stat.st_dev, found.stat.st_ino)
            if found.layer_dir.layer.writable:
                if node.has_upper and os.path.samestat(found.stat, self._tree.stat(node)):
                    return
            elif key == node.lower_key and (not node.has_upper or node.index_name is not None):
                if not node.has_upper:
                    node.mark_found_in(found.layer_dir, found.name)
                return
        self._unlink(directory, name, node)

    def _unlink(self, directory: Directory, name: bytes, node: Node) -> None:
        assert isinstance(node, File)
        with suppress(OSError):
            node.remember(self._tree.stat(node))
        self._table.unlink(node, directory, name)
        if not node.links:
            self._table.evict_if_unused(node)

    def _close_gone(self) -> None:
        """Close the layers that no node needs any more, and the descriptors of directories that no node has now."""
        nodes = self._table.by_nodeid.values()
        gone = set(self._gone)
        needed = {
            layer_dir.layer
            for node in nodes
            for layer_dir in _lowers_of(node)
            if layer_dir.layer in gone
        }
        current = {one for node in nodes if isinstance(node, Directory) for one in node.layer_dirs}
        self._descriptors.close_some(lambda one: isinstance(one, LayerDir) and one not in current)
        for layer in gone - needed:
            layer.close()
        self._gone = [layer for layer in self._gone if layer in needed]


def _lowers_of(node: Node) -> Iterable[LayerDir]:
    if isinstance(node, Directory):
        return node.lowers
    data = None if node.data is None else node.data.layer_dir
    lower = None if node.has_upper else node.lower_dir
    return [one for one in (lower, data) if one is not None]


def _depth(directory: Directory) -> int:
    depth = 0
    above = directory.parent
    while above is not None:
        depth += 1
        above = above.parent
    return depth


def _has(layer_dir: LayerDir, name: bytes) -> bool:
    return attributes.stat_or_none(layer_dir.fd(), name) is not None


def _is_directory(layer_dir: LayerDir) -> bool:
    try:
        return stat.S_ISDIR(layer_dir.stat().st_mode)
    except OSError:
        return False
