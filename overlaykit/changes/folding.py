"""New directories of an upper that a walk takes as one change, with all that they hold.

All in such a directory is plain: what is on the disk is what the view shows, under the same names, and nothing needs a
look of its own: no markers, no other names, no devices, nothing that lends rights. Of the rest `whole` finds out which
are moved as one.
"""

from __future__ import annotations

import os
import stat

from overlaykit import attributes
from overlaykit.changes.model import STATE
from overlaykit.lean import NamedTuple
from overlaykit.overlay.markers import OVERLAY_PREFIXES, is_aufs_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from overlaykit.changes.model import Version
    from overlaykit.overlay.layer import LayerDir

_RWX: Final = 0o700
_DEEPEST: Final = 100
"""Directories in each other that are taken as one, at most: each is open meanwhile."""
_LOOKED_AT: Final = (*OVERLAY_PREFIXES, b"security.capability")
_PLAIN: Final = frozenset((stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK))
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID


class Inside(NamedTuple):
    """All that a directory holds: paths in the view, each directory before what it holds, and their inode numbers."""

    paths: list[bytes]
    inodes: list[int]


class Folding:
    """Takes new directories as one. `is_free`: whether the target has nothing at a path."""

    def __init__(self, is_free: Callable[[bytes], bool]) -> None:
        self._is_free = is_free
        self._seen: dict[bytes, Inside | None] = {}
        """Of directories that hold one which is not plain: each is looked at once."""

    def inside(
        self, path: bytes, old_path: bytes | None, new: Version, on_disk: bytes
    ) -> Inside | None:
        """What a directory of the upper holds, if it is taken as one.

        `old_path`: where the target would have it. `on_disk`: the path in the upper that it has to have.
        Requires: no layer below has such a directory.
        """
        layer = new.layer_dir.layer
        if not layer.writable or layer.override is not None or not _may_move(new.stat):
            return None
        if new.layer_dir.path(new.name) != on_disk:
            return None
        if not all(map(self._is_free, {path, path if old_path is None else old_path})):
            return None
        if path in self._seen:
            return self._seen.pop(path)
        return self._within(new.layer_dir.child(new.name), path, new.stat.st_dev, 0)

    def _within(self, directory: LayerDir, path: bytes, device: int, depth: int) -> Inside | None:
        try:
            return self._listed(directory, path, device, depth)
        except OSError:  # it is closed, or has gone since
            return None
        finally:
            directory.close()

    def _listed(self, directory: LayerDir, path: bytes, device: int, depth: int) -> Inside | None:
        paths: list[bytes] = []
        inodes: list[int] = []
        found: dict[bytes, Inside | None] = {}
        is_plain = True
        above = path + b"/"
        fd = directory.fd()
        for name, _, _ in sorted(entry for portion in directory.scan() for entry in portion):
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            names = attributes.xattr_names_at(fd, name)
            if (
                (names and any(one.startswith(_LOOKED_AT) for one in names))
                or st.st_dev != device
                or is_aufs_name(name)
                or name == STATE
            ):
                is_plain = False
                continue
            paths.append(above + name)
            inodes.append(st.st_ino)
            mode = st.st_mode
            if not stat.S_ISDIR(mode):
                is_set_id = mode & _SET_ID and stat.S_ISREG(mode)
                if st.st_nlink != 1 or is_set_id or stat.S_IFMT(mode) not in _PLAIN:
                    is_plain = False
                continue
            inside = None
            if depth < _DEEPEST and _may_move(st):
                inside = self._within(directory.child(name), above + name, device, depth + 1)
            found[above + name] = inside
            if inside is None:
                is_plain = False
            else:
                paths += inside.paths
                inodes += inside.inodes
        if is_plain:
            return Inside(paths, inodes)
        self._seen |= found
        return None


def _may_move(st: os.stat_result) -> bool:
    """An ordinary user may move a directory only if its mode lets the user write in it (rename(2))."""
    return os.geteuid() == 0 or st.st_mode & _RWX == _RWX
