"""Which layer answers for a path, and which entries it shadows."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from overlaykit.overlay.failure import fail
from overlaykit.overlay.marker_names import AUFS_WHITEOUT, is_whiteout_device
from overlaykit.overlay.nodes import Directory, File

if TYPE_CHECKING:
    from overlaykit.overlay.filesystem import Filesystem
    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.nodes import Node
    from overlaykit.overlay.tree import Tree

_MOST_LINKS: Final = 40  # path_resolution(7)
_MOST_NAMES: Final = 8192
"""On a path, with those of the symlinks that it leads through: a daemon answers nothing else in between."""

Role = Literal["answers", "data", "merged", "shadowed", "whiteout"]


@dataclass(frozen=True, slots=True)
class LayerHit:
    """One layer's entry for a path.

    `role`: `answers`; holds the `data` of a file whose metadata answer; `merged` into a directory that answers;
    `shadowed` by an entry above; or a `whiteout`.
    `path`: of the real file. `kind`: file, directory, symlink, device, fifo or socket.
    """

    layer: str
    path: str
    kind: str
    role: Role


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a path in the view means.

    `path`: with the symlinks above its last name resolved. `target`: of a symlink. `hits`: the topmost layer's first.
    """

    path: str
    target: str | None
    hits: tuple[LayerHit, ...]


def explain(filesystem: Filesystem, path: bytes) -> Explanation:
    """Find each layer's entry for a path.

    Raises OSError: ENOTDIR, ELOOP, or ENOENT if no layer has even a whiteout.
    """
    seen: list[Node] = []
    try:
        return _explain(filesystem, path, seen)
    finally:
        for node in reversed(seen):  # children first
            filesystem.nodes.evict_if_unused(node)


def _explain(filesystem: Filesystem, path: bytes, seen: list[Node]) -> Explanation:
    parents, name = _resolve(filesystem, path, seen)
    directory = parents[-1]
    names = [parent.name for parent in parents[1:]]
    if not name:
        hits = [_hit(layer_dir, None, _role(n)) for n, layer_dir in enumerate(directory.layer_dirs)]
        return Explanation(_shown(names), None, tuple(hits))
    tree = filesystem.tree
    found = filesystem.lookup.find(directory, name)
    node = None if found is None else found.node
    if node is not None:
        seen.append(node)
    hits = _with_data(_hits(tree, directory, name, node), node)
    if not hits:
        fail(errno.ENOENT, path)
    target = None
    if node is not None and node.kind == stat.S_IFLNK:
        target = os.fsdecode(tree.readlink(node))
    return Explanation(_shown([*names, name]), target, tuple(hits))


def _hits(tree: Tree, directory: Directory, name: bytes, node: Node | None) -> list[LayerHit]:
    shown = list(node.layer_dirs) if isinstance(node, Directory) else []
    hits = [_hit(layer_dir, None, _role(n)) for n, layer_dir in enumerate(shown)]
    answered = bool(hits)
    layers = {layer_dir.layer for layer_dir in shown}
    for layer_dir in directory.layer_dirs:
        if layer_dir.layer in layers:
            continue
        try:
            st = os.stat(name, dir_fd=layer_dir.fd(), follow_symlinks=False)
        except FileNotFoundError:
            if node is None and not answered and tree.merge.has_aufs_whiteout(layer_dir, name):
                hits.append(_hit(layer_dir, AUFS_WHITEOUT + name, "whiteout"))
                answered = True
            continue
        if answered:
            role: Role = "shadowed"
        elif is_whiteout_device(st) or node is None:
            role = "whiteout"
            answered = True
        else:
            role = "answers"
            answered = True
        hits.append(_hit(layer_dir, name, role))
    return hits


def _with_data(hits: list[LayerHit], node: Node | None) -> list[LayerHit]:
    """The entries with that which holds the data of a metacopy; it may lie under another path than the others."""
    if not isinstance(node, File) or node.data is None or node.data.layer_dir is None:
        return hits
    data = _hit(node.data.layer_dir, node.data.name, "data")
    others = [hit for hit in hits if hit.path != data.path]
    before = [hit for hit in others if hit.role != "shadowed"]
    return [*before, data, *others[len(before) :]]


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


def _role(index: int) -> Role:
    """The role of a merged directory, counted from the top."""
    return "merged" if index else "answers"


def _hit(layer_dir: LayerDir, name: bytes | None, role: Role) -> LayerHit:
    names = layer_dir.components() + ([] if name is None else [name])
    st = (
        layer_dir.stat()
        if name is None
        else os.stat(name, dir_fd=layer_dir.fd(), follow_symlinks=False)
    )
    path = os.path.join(layer_dir.layer.path, *map(os.fsdecode, names))
    return LayerHit(layer_dir.layer.path, path, _kind(st.st_mode), role)


def _kind(mode: int) -> str:
    return {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
    }.get(stat.S_IFMT(mode), "device")


def _shown(names: list[bytes]) -> str:
    return "/" + os.fsdecode(b"/".join(names))
