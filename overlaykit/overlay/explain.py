"""What a path means in each layer: which entry answers, and why the others are hidden."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from overlaykit import attributes
from overlaykit.overlay import provenance
from overlaykit.overlay.copyup import Origins
from overlaykit.overlay.explanation import Explanation, Hiding, LayerHit
from overlaykit.overlay.failure import fail
from overlaykit.overlay.marker_names import AUFS_WHITEOUT, is_whiteout_device
from overlaykit.overlay.markers import AUFS_OPAQUE
from overlaykit.overlay.nodes import Directory, File

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlaykit.overlay.filesystem import Filesystem
    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.markers import DirectoryMarkers
    from overlaykit.overlay.nodes import Node

_MOST_LINKS: Final = 40  # path_resolution(7)
_MOST_NAMES: Final = 8192
"""On a path, with those of the symlinks that it leads through: a daemon answers nothing else in between."""


def explain(filesystem: Filesystem, path: bytes, index: LayerDir | None = None) -> Explanation:
    """Find each layer's entry for a path.

    `index`: that of an upper which is merged as if it were a lower.
    Raises OSError: ENOTDIR, ELOOP, or ENOENT if no layer has even a whiteout.
    """
    seen: list[Node] = []
    try:
        return _explain(filesystem, path, index, seen)
    finally:
        for node in reversed(seen):  # children first
            filesystem.nodes.evict_if_unused(node)


def _explain(
    filesystem: Filesystem, path: bytes, index: LayerDir | None, seen: list[Node]
) -> Explanation:
    parents, name = _resolve(filesystem, path, seen)
    names = [parent.name for parent in parents[1:]]
    walk = _Walk(filesystem, index)
    try:
        for parent in parents[1:]:
            walk.enter(parent.name, parent)
        if not name:
            return Explanation(_shown(names), None, 1, (), tuple(walk.root_hits()))
        found = filesystem.lookup.find(parents[-1], name)
        node = None if found is None else found.node
        if node is not None:
            seen.append(node)
        hits = tuple(walk.hits(name, node))
    finally:
        walk.close()
    if not hits:
        fail(errno.ENOENT, path)
    shown = _shown([*names, name])
    target = others = links = None
    if node is not None:
        links = filesystem.tree.attributes(node).link_count
        if isinstance(node, File):
            others = {_path_of(*link) for link in node.links} - {shown}
        if node.kind == stat.S_IFLNK:
            target = os.fsdecode(filesystem.tree.readlink(node))
    return Explanation(shown, target, links, tuple(sorted(others or ())), hits)


class _Entry(NamedTuple):
    """A layer's entry for one name: `layer_dir` is the directory itself if `name` is empty."""

    layer_dir: LayerDir
    name: bytes
    role: str
    hidden: Hiding | None = None
    redirect: bytes | None = None

    @property
    def path(self) -> str:
        return _real_path(self.layer_dir, self.name)

    def stat(self) -> os.stat_result:
        if not self.name:
            return self.layer_dir.stat()
        return os.stat(self.name, dir_fd=self.layer_dir.fd(), follow_symlinks=False)


class _Walk:
    """Follows a path down all layers at once, also in directories that are hidden.

    `_at`: what each layer has for the path so far, by its index, and why that is hidden.
    """

    def __init__(self, filesystem: Filesystem, index: LayerDir | None) -> None:
        self._tree = filesystem.tree
        self._index = index
        self._opened: list[LayerDir] = []
        root = filesystem.root
        shown = {layer_dir.layer.index for layer_dir in root.layer_dirs}
        hidden = Hiding("opaque", [one.layer.path for one in root.layer_dirs][-1])
        self._at: dict[int, tuple[LayerDir, Hiding | None]] = {
            layer.index: (layer.root, None if layer.index in shown else hidden)
            for layer in self._tree.layers
        }

    def close(self) -> None:
        for layer_dir in reversed(self._opened):
            layer_dir.close()

    def enter(self, name: bytes, node: Directory) -> None:
        """Go down to the directory `node`, which is `name` in this one."""
        found = list(self._entries(name, node))
        self._at = {}
        for entry in reversed(found):  # of two in one layer, the one that is shown comes first
            if not entry.name:
                self._at[entry.layer_dir.layer.index] = (entry.layer_dir, None)
            elif entry.hidden is not None and stat.S_ISDIR(entry.stat().st_mode):
                child = entry.layer_dir.child(entry.name)
                self._opened.append(child)
                self._at[child.layer.index] = (child, entry.hidden)

    def root_hits(self) -> Iterator[LayerHit]:
        for layer_dir, hidden in self._at.values():
            role = "shadowed" if hidden else "merged" if layer_dir.layer.index else "answers"
            yield self._hit(_Entry(layer_dir, b"", role, hidden), [])

    def hits(self, name: bytes, node: Node | None) -> list[LayerHit]:
        """The layers' entries for `name`, which is `node` in the view."""
        found = list(self._entries(name, node))
        if isinstance(node, File):
            found = _with_data(found, node)
        return [self._hit(entry, found[at + 1 :]) for at, entry in enumerate(found)]

    def _hit(self, entry: _Entry, below: list[_Entry]) -> LayerHit:
        copied = None
        if entry.role != "whiteout":
            places = [(one.layer_dir, one.name, one.path) for one in below]
            copied = provenance.copied(self._tree, entry.layer_dir, entry.name, places)
        return LayerHit(
            entry.layer_dir.layer.path,
            entry.path,
            provenance.kind(entry.stat().st_mode),
            entry.role,  # type: ignore[arg-type]  # one of its literals
            entry.hidden,
            None if entry.redirect is None else os.fsdecode(entry.redirect),
            copied,
        )

    def _entries(self, name: bytes, node: Node | None) -> Iterator[_Entry]:
        """What each layer has under a name, the topmost layer's first."""
        above: Hiding | None = None
        top: str | None = None
        shown = {one.layer.index: one for one in getattr(node, "layer_dirs", ())}
        if isinstance(node, File) and (indexed := self._indexed(name, node)) is not None:
            yield indexed
            above = Hiding("index", indexed.path)
        for layer in self._tree.layers:
            merged = shown.get(layer.index)
            at, hidden = self._at.get(layer.index, (None, None))
            if merged is not None:
                entry = _Entry(merged, b"", "answers" if top is None else "merged")
                top = entry.path
                markers = self._markers(merged)
                yield entry._replace(redirect=markers.redirect)
                if at is not None and not _is_same(merged, at, name):
                    yield from self._natural(at, name, hidden or above)
                if markers.opaque or self._has_whiteout_beside(merged):
                    above = Hiding("opaque", top)
                elif markers.redirect is not None:
                    above = Hiding("redirect", top)
            elif at is not None:
                for entry in self._natural(at, name, hidden or above):
                    if hidden is None and above is None:
                        if entry.role == "whiteout":
                            above = Hiding("whiteout", entry.path)
                        elif top is not None:
                            entry = entry._replace(hidden=Hiding("covered", top))
                            above = Hiding("covered", entry.path)
                        else:
                            entry = entry._replace(role="answers", redirect=self._redirect(entry))
                            above = Hiding("covered", entry.path)
                    yield entry

    def _natural(self, at: LayerDir, name: bytes, hidden: Hiding | None) -> Iterator[_Entry]:
        """The entry that has the name itself, or is its whiteout."""
        merge = self._tree.merge
        try:
            fd = at.fd()
            st = at.layer.read(lambda: attributes.stat_or_none(fd, name), fd)
            if st is not None:
                role = "whiteout" if merge.is_whiteout(at, name, st) else "shadowed"
                yield _Entry(at, name, role, hidden)
            elif merge.has_aufs_whiteout(at, name):
                yield _Entry(at, AUFS_WHITEOUT + name, "whiteout", hidden)
        except PermissionError:
            if hidden is None:
                raise

    def _indexed(self, name: bytes, node: File) -> _Entry | None:
        """The entry in the index of a file that the upper does not have under this name."""
        upper, _ = self._at.get(0, (None, None))
        if upper is not None and attributes.stat_or_none(upper.fd(), name) is not None:
            return None
        if node.index_name is not None:
            return _Entry(self._tree.work.index, node.index_name, "answers")
        lower = node.lower_dir
        if self._index is None or lower is None:
            return None
        st = os.stat(node.lower_name, dir_fd=lower.fd(), follow_symlinks=False)
        lowers = [layer for layer in self._tree.layers if layer.index]
        origin = Origins(lowers).find(lower, node.lower_name, st.st_dev)
        if origin is None or st.st_nlink == 1:
            return None
        found = attributes.stat_or_none(self._index.fd(), origin.index_name())
        if found is None or is_whiteout_device(found):
            return None
        return _Entry(self._index, origin.index_name(), "answers")

    def _markers(self, layer_dir: LayerDir) -> DirectoryMarkers:
        path = layer_dir.proc_path()
        return self._tree.markers.of_directory(path, upper=layer_dir.layer.writable)

    def _has_whiteout_beside(self, layer_dir: LayerDir) -> bool:
        """Whether AUFS names hide what is below a directory."""
        if attributes.stat_or_none(layer_dir.fd(), AUFS_OPAQUE) is not None:
            return True
        parent = layer_dir.parent
        return (
            parent is not None
            and not layer_dir.layer.writable
            and self._tree.merge.has_aufs_whiteout(parent, layer_dir.name)
        )

    def _redirect(self, entry: _Entry) -> bytes | None:
        """Where the layers below have the data of a metacopy."""
        path = entry.layer_dir.proc_path(entry.name)
        markers = self._tree.markers
        try:
            held = markers.of_file(path)
        except PermissionError:
            return None
        return markers.file_redirect(path) if held.metacopy else None


def _with_data(found: list[_Entry], node: File) -> list[_Entry]:
    """The entries with that which holds the data of a metacopy; it may lie under another path than the others."""
    if node.data is None or node.data.layer_dir is None:
        return found
    data = _Entry(node.data.layer_dir, node.data.name, "data")
    others = [one for one in found if one.path != data.path]
    before = [one for one in others if one.role != "shadowed"]
    return [*before, data, *others[len(before) :]]


def _is_same(layer_dir: LayerDir, at: LayerDir, name: bytes) -> bool:
    """Whether a directory is `name` in `at`."""
    return layer_dir.components() == [*at.components(), name]


def _resolve(
    filesystem: Filesystem, path: bytes, seen: list[Node]
) -> tuple[list[Directory], bytes]:
    """The directories down to the one that holds the last name, and that name (empty for the root).

    Appends each node that it looks up to `seen`.
    """
    pending = [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]
    parents = [filesystem.root]
    links = names = 0
    while pending:
        name = pending.pop()
        names += 1
        if names > _MOST_NAMES:
            fail(errno.ELOOP, path)
        if name == b"..":
            if len(parents) > 1:
                parents.pop()
            continue
        if not pending:
            return parents, name
        node = filesystem.lookup.require(parents[-1], name)
        seen.append(node)
        if isinstance(node, Directory):
            parents.append(node)
        elif node.kind == stat.S_IFLNK:
            links += 1
            if links > _MOST_LINKS:
                fail(errno.ELOOP, path)
            target = filesystem.tree.readlink(node)
            if target.startswith(b"/"):
                del parents[1:]
            pending += [name for name in reversed(target.split(b"/")) if name not in (b"", b".")]
        else:
            fail(errno.ENOTDIR, path)
    last = parents.pop() if len(parents) > 1 else None
    return (parents, last.name) if last is not None else (parents, b"")


def _real_path(layer_dir: LayerDir, name: bytes) -> str:
    names = [*layer_dir.components(), *([name] if name else [])]
    return os.path.join(layer_dir.layer.path, *map(os.fsdecode, names))


def _path_of(directory: Directory, name: bytes) -> str:
    """The path of a name in the view."""
    names = [name]
    current: Directory | None = directory
    while current is not None and current.parent is not None:
        names.append(current.name)
        current = current.parent
    return _shown(names[::-1])


def _shown(names: list[bytes]) -> str:
    return "/" + os.fsdecode(b"/".join(names))
