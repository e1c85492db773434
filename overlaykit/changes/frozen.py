"""The layers of a view's own, where some were frozen: how the files in them follow each other.

A file that was copied from a frozen one is a copy of what that was copied from. A hard link that a layer does not have
under all of its names shows the newest copy that the index of one of the view's own layers has.
"""

from __future__ import annotations

import os
import stat

from overlaykit import handles
from overlaykit.lean import partial
from overlaykit.overlay.beside import work_beside
from overlaykit.overlay.layer import LayerDir
from overlaykit.overlay.markers import Origin
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TypeAlias

    from overlaykit.changes.model import Version
    from overlaykit.overlay.layer import Layer
    from overlaykit.overlay.markers import Markers
    from overlaykit.overlay.merge import Found

    _Handle: TypeAlias = tuple[int, bytes]
    _Index: TypeAlias = tuple[LayerDir, Mapping[_Handle, bytes]]


class Frozen:
    """The own layers of a view with snapshots. Owns the descriptors of their indexes."""

    def __init__(self, layers: Sequence[Layer], markers: Markers) -> None:
        self._own = [one for one in layers if one.of_view]
        self._markers = markers
        self._indexes: dict[Layer, _Index | None] = {}
        self._origins: dict[_Handle, Origin | None] | None = None

    def close(self) -> None:
        """Close the indexes."""
        for index in self._indexes.values():
            if index is not None:
                index[0].close()
        self._indexes.clear()

    def newest(self, found: Found) -> Found:
        """A file, or the copy of it that the index of a layer above gives to all of its names. Raises: OSError."""
        for layer in reversed(self._own):
            if layer.index >= found.layer_dir.layer.index:
                continue
            index = self._index_of(layer)
            handle = None if index is None else _handle_of(found.layer_dir, found.name)
            if index is None or handle is None or handle not in index[1]:
                continue
            entry = index[1][handle]
            st = os.stat(entry, dir_fd=index[0].fd(), follow_symlinks=False)
            if stat.S_IFMT(st.st_mode) == stat.S_IFMT(found.stat.st_mode):
                found = found._replace(layer_dir=index[0], name=entry, stat=st)
        return found

    def origin(self, version: Version, origin: Origin | None) -> Origin | None:
        """The origin of a file, of which that of a frozen one is its own. Raises: OSError."""
        if origin is None or version.layer_dir.layer.index >= self._own[-1].index:
            return origin
        if self._origins is None:
            self._origins = dict(self._read_origins())
        seen = set()
        while origin is not None and (key := (origin.type, origin.handle)) in self._origins:
            if key in seen:
                return None
            seen.add(key)
            origin = self._origins[key]
        return origin

    def _read_origins(self) -> Iterator[tuple[_Handle, Origin | None]]:
        """The origins of all files in the frozen layers, those in their indexes too."""
        for layer in self._own:
            if not layer.frozen:
                continue
            index = self._index_of(layer)
            pending = [layer.root, *([] if index is None else [index[0]])]
            while pending:
                directory = pending.pop()
                for name, kind, _ in [one for portion in directory.scan() for one in portion]:
                    if kind == stat.S_IFDIR:
                        pending.append(directory.child(name))
                        continue
                    handle = _handle_of(directory, name)
                    if handle is None:
                        continue
                    path = directory.proc_path(name)
                    yield (
                        handle,
                        layer.read(partial(self._markers.origin, path), directory.fd(), name),
                    )
                layer.descriptors.trim()

    def _index_of(self, layer: Layer) -> _Index | None:
        if layer not in self._indexes:
            self._indexes[layer] = self._open_index_of(layer)
        return self._indexes[layer]

    def _open_index_of(self, layer: Layer) -> _Index | None:
        path = os.path.join(work_beside(os.path.realpath(layer.path)), "index")
        try:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        # A part of the layer, whose descriptors it shares.
        index = LayerDir(layer, None, b"", fd)
        names: dict[_Handle, bytes] = {}
        for name in (one[0] for portion in index.scan() for one in portion):
            with suppress(ValueError):
                origin = Origin.decode(bytes.fromhex(os.fsdecode(name)))
                if origin is not None:
                    names[origin.type, origin.handle] = name
        return index, names


def _handle_of(directory: LayerDir, name: bytes) -> _Handle | None:
    """The handle of an inode, which origins hold; None where its file system has none."""
    try:
        found = handles.of_name(directory.fd(), name)
    except OSError:
        return None
    return found.type, found.handle
