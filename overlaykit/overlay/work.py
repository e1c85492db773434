"""The work directory: files are made there, and one rename moves each of them, complete, into the upper.

The layout is the kernel's. `WORKDIR/work` holds unfinished files and is cleared at each mount. `WORKDIR/index` holds
the hard-linked files that were copied up, named by the handle of their origin (Documentation/filesystems/overlayfs.rst,
"Index").
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from overlaykit import _native, attributes
from overlaykit.overlay.markers import DEFAULT_ACL
from overlaykit.overlay.modes import Modes
from overlaykit.rmtree import rmtree

if TYPE_CHECKING:
    from overlaykit.overlay.layer import Layer, LayerDir

_DIRECTORY_MODE: Final = 0o700


class Work:
    """Unfinished files and directories. `layer` is the opened WORKDIR, `upper` the upper's root.

    `layer_dir` and `index` are the directories `work` and `index` of WORKDIR; `modes` widens modes in the upper.
    Requires: both lie on one mount.
    """

    def __init__(self, layer: Layer, upper: LayerDir) -> None:
        self._layer = layer
        self.layer_dir = self._subdirectory(b"work", layer)
        self.index = self._subdirectory(b"index", layer)
        self.modes = upper.layer.modes = Modes(self.layer_dir, (upper, self.index))
        self.modes.recover()
        self._serial = 0
        self._has_noreplace = True
        self.clear()

    def move_to(self, layer: Layer, upper: LayerDir) -> None:
        """Go on in another WORKDIR, `layer`, for another upper. Requires: no mode is widened; it is empty."""
        work, index = self._subdirectory(b"work", layer), self._subdirectory(b"index", layer)
        self._layer, self.layer_dir, self.index = layer, work, index
        upper.layer.modes = self.modes
        self.modes.move_to(work, (upper, index))

    def clear(self) -> None:
        """Remove the unfinished files of an earlier daemon."""
        for name in os.listdir(self.layer_dir.proc_path()):
            self.remove(name)

    def new_name(self) -> bytes:
        """An unused name in the work directory."""
        self._serial += 1
        return b"#%x" % self._serial

    def can_give_to_user(self, uid: int) -> bool:
        """Whether chown(2) can give a file of the daemon's to this user."""
        return self._can_give(uid, -1)

    def can_give_to_group(self, gid: int) -> bool:
        """Whether chown(2) can give a file of the daemon's to this group."""
        return self._can_give(-1, gid)

    def _can_give(self, uid: int, gid: int) -> bool:
        name = self.new_name()
        os.mkdir(name, _DIRECTORY_MODE, dir_fd=self.layer_dir.fd())
        try:
            os.chown(name, uid, gid, dir_fd=self.layer_dir.fd(), follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.EOVERFLOW):
                raise
            return False
        finally:
            self.remove(name)
        return True

    def remove(self, name: bytes, work_dir: LayerDir | None = None) -> None:
        """Remove an unfinished file or tree, as far as possible: `clear` removes the rest at the next mount."""
        with contextlib.suppress(OSError):
            rmtree((work_dir or self.layer_dir).fd(), name)

    def publish(
        self,
        name: bytes,
        layer_dir: LayerDir,
        target: bytes,
        work_dir: LayerDir | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """Rename `name` in the work directory (or in `work_dir` below it) to `target` in a directory of the upper.

        Raises: OSError, with `name` removed: EEXIST (unless `replace`), ENOSPC and others of rename(2).
        """
        if not replace and self._has_noreplace:
            try:
                self._move(
                    name, layer_dir, target, work_dir, _native.RENAME_NOREPLACE, keep=errno.EINVAL
                )
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._has_noreplace = False  # the file system does not know the flag
            else:
                return
        if not replace and attributes.stat_or_none(layer_dir.fd(), target) is not None:
            self.remove(name, work_dir)
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        self._move(name, layer_dir, target, work_dir, 0)

    def exchange(
        self, name: bytes, layer_dir: LayerDir, target: bytes, work_dir: LayerDir | None = None
    ) -> None:
        """Exchange `name` with `target` in a directory of the upper.

        Raises: OSError, with `name` removed.
        """
        self._move(name, layer_dir, target, work_dir, _native.RENAME_EXCHANGE)

    def remove_content(self, layer_dir: LayerDir) -> None:
        """Remove everything in a directory of the upper."""
        for name in os.listdir(layer_dir.proc_path()):
            rmtree(layer_dir.fd(), name)

    def _move(
        self,
        name: bytes,
        layer_dir: LayerDir,
        target: bytes,
        work_dir: LayerDir | None,
        flags: int,
        keep: int = 0,
    ) -> None:
        """Rename. After an error other than `keep`, remove `name`."""
        try:
            self.modes.past(
                lambda: self._rename(name, layer_dir, target, work_dir or self.layer_dir, flags)
            )
        except OSError as error:
            if error.errno != keep:
                self.remove(name, work_dir)
            raise

    def _rename(
        self, name: bytes, layer_dir: LayerDir, target: bytes, work_dir: LayerDir, flags: int
    ) -> None:
        self.modes.widen_to_move(work_dir, name, layer_dir, target)
        if flags == _native.RENAME_EXCHANGE:
            self.modes.widen_to_move(layer_dir, target, layer_dir, target)
        _native.renameat2(work_dir.fd(), name, layer_dir.fd(), target, flags)

    def _subdirectory(self, name: bytes, layer: Layer) -> LayerDir:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, _DIRECTORY_MODE, dir_fd=layer.root.fd())
        layer_dir = layer.root.child(name)
        # A new file gets the default ACL of the directory that it is for, not that of the work directory.
        try:
            os.removexattr(layer_dir.proc_path(), DEFAULT_ACL)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
        return layer_dir
