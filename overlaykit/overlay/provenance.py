"""Where a copy in an upper came from: which program it was made for, when, and of which file."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from overlaykit import _native, attributes, handles
from overlaykit.overlay.explanation import Copied, Lower
from overlaykit.overlay.markers import find_origin

if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlaykit.overlay.layer import Layer, LayerDir
    from overlaykit.overlay.markers import Origin
    from overlaykit.overlay.tree import Tree

_SECOND: Final = 10**9


def copied(
    tree: Tree, layer_dir: LayerDir, name: bytes, places: Iterable[tuple[LayerDir, bytes, str]]
) -> Copied | None:
    """How `name` in `layer_dir`, or the directory itself, came there by copy-up; None: it did not, as far as is known.

    `places`: entries of layers below, and their paths, of which one may be what it was.
    """
    holder: LayerDir | None = layer_dir
    if not name:
        holder, name = layer_dir.parent, layer_dir.name
    if holder is None:
        return None
    try:
        origin = tree.markers.origin(holder.proc_path(name))
    except OSError:  # of another owner
        return None
    if origin is None:
        return None
    return Copied(
        os.fsdecode(origin.program) if origin.program else None,
        origin.copied * _SECOND or _made(holder, name),
        _lower(tree, origin, places),
    )


def _made(layer_dir: LayerDir, name: bytes) -> int | None:
    """When an inode was made, in nanoseconds since the epoch; None where the file system does not know."""
    flags, mask = _native.AT_SYMLINK_NOFOLLOW, _native.STATX_BTIME
    found = attributes.statx(layer_dir.fd(), name, flags, mask)
    return found.btime_ns if found.mask & mask else None


def kind(mode: int) -> str:
    """The type of a file, as a word."""
    return {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
    }.get(stat.S_IFMT(mode), "device")


def _lower(tree: Tree, origin: Origin, places: Iterable[tuple[LayerDir, bytes, str]]) -> Lower:
    for layer_dir, name, path in places:
        parent, own = (layer_dir, name) if name else (layer_dir.parent, layer_dir.name)
        if parent is None:
            continue
        found = find_origin(parent.fd(), own, origin.uuid)
        if found is not None and (found.type, found.handle) == (origin.type, origin.handle):
            return _described(path, os.stat(own, dir_fd=parent.fd(), follow_symlinks=False), origin)
    for layer in tree.layers:
        if not layer.writable and (lower := _by_handle(layer, origin)) is not None:
            return lower
    return Lower(None, None, None, None, None, None, None, None)


def _by_handle(layer: Layer, origin: Origin) -> Lower | None:
    """The file in a layer that has moved since, or is another name; None without CAP_DAC_READ_SEARCH."""
    try:
        if layer.uuid(layer.root.stat().st_dev, layer.root) != origin.uuid:
            return None
        mount = layer.root.open_for_reading()
        try:
            inode = handles.opened(mount, origin.type, origin.handle, os.O_PATH)
            try:
                root, path = (os.readlink(f"/proc/self/fd/{fd}") for fd in (mount, inode))
                st = os.fstat(inode)
            finally:
                os.close(inode)
        finally:
            os.close(mount)
    except OSError:
        return None
    root = root.rstrip("/")
    if not path.startswith(root + "/"):
        return None
    path = os.path.join(layer.path, path[len(root) + 1 :])
    return _described(path if st.st_nlink else None, st, origin)


def _described(path: str | None, st: os.stat_result, origin: Origin) -> Lower:
    changed = None if origin.changed_ns is None else st.st_ctime_ns != origin.changed_ns
    return Lower(
        path,
        kind(st.st_mode),
        stat.S_IMODE(st.st_mode),
        st.st_uid,
        st.st_gid,
        st.st_size,
        st.st_mtime_ns,
        changed,
    )
