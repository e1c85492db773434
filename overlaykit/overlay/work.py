"""The work directory: where things are made before they appear in the upper, whole, by one rename.

Layout as the kernel's: `WORKDIR/work` holds unfinished things and is cleared at each mount; `WORKDIR/index` holds the
hard-linked files that were copied up, by the handle of their origin (Documentation/filesystems/overlayfs.rst, "Index").
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from overlaykit import _native
from overlaykit.overlay.markers import DEFAULT_ACL
from overlaykit.overlay.modes import Modes

if TYPE_CHECKING:
    from overlaykit.overlay.layer import Layer, LayerDir

_DIRECTORY_MODE: Final = 0o700


class Work:
    """Unfinished files and directories. `layer` is the opened WORKDIR, `upper` the upper's root.

    Requires: both lie on one mount.
    `modes`: for what is to be changed in the upper.
    """

    def __init__(self, layer: Layer, upper: LayerDir) -> None:
        self._layer = layer
        self.layer_dir = self._subdirectory(b"work")
        self.index = self._subdirectory(b"index")
        self.modes = upper.layer.modes = Modes(self.layer_dir, (upper, self.index))
        self.modes.recover()
        self._serial = 0
        self._refuses_replacing = True
        self.clear()

    def clear(self) -> None:
        """Remove what an earlier daemon left unfinished."""
        for name in os.listdir(self.layer_dir.proc_path()):
            self.discard(name)

    def new_name(self) -> bytes:
        """A name in the work directory that is not taken."""
        self._serial += 1
        return b"#%x" % self._serial

    def can_give_to_user(self, uid: int) -> bool:
        """Whether a file of ours can be made that user's."""
        return self._can_give(uid, -1)

    def can_give_to_group(self, gid: int) -> bool:
        """Whether a file of ours can be made that group's."""
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
            self.discard(name)
        return True

    def discard(self, name: bytes, work_dir: LayerDir | None = None) -> None:
        """Remove an unfinished thing, with all below it. Follows no symlink; what cannot go stays for `clear`."""
        with contextlib.suppress(OSError):
            _remove_tree(work_dir or self.layer_dir, name)

    def publish(
        self,
        name: bytes,
        layer_dir: LayerDir,
        target: bytes,
        work_dir: LayerDir | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """Let `name` (in the work directory, or in `work_dir` below it) appear as `target` in a directory of the upper.

        Raises OSError, having removed it: EEXIST (unless `replace`), ENOSPC and the like.
        """
        if not replace and self._refuses_replacing:
            try:
                self._move(
                    name, layer_dir, target, work_dir, _native.RENAME_NOREPLACE, keep=errno.EINVAL
                )
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._refuses_replacing = False  # the file system does not know the flag
            else:
                return
        if not replace and _native.stat_or_none(layer_dir.fd(), target) is not None:
            self.discard(name, work_dir)
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        self._move(name, layer_dir, target, work_dir, 0)

    def exchange(
        self, name: bytes, layer_dir: LayerDir, target: bytes, work_dir: LayerDir | None = None
    ) -> None:
        """Let `name` appear as `target`, and take what was there in its stead. Raises OSError, having removed it."""
        self._move(name, layer_dir, target, work_dir, _native.RENAME_EXCHANGE)

    def remove_all(self, layer_dir: LayerDir) -> None:
        """Remove all that is in a directory of the upper."""
        for name in os.listdir(layer_dir.proc_path()):
            _remove_tree(layer_dir, name)

    def _move(
        self,
        name: bytes,
        layer_dir: LayerDir,
        target: bytes,
        work_dir: LayerDir | None,
        flags: int,
        keep: int = 0,
    ) -> None:
        """Rename; `name` is removed after an error other than `keep`."""
        try:
            self.modes.past(
                lambda: self._rename(name, layer_dir, target, work_dir or self.layer_dir, flags)
            )
        except OSError as error:
            if error.errno != keep:
                self.discard(name, work_dir)
            raise

    def _rename(
        self, name: bytes, layer_dir: LayerDir, target: bytes, work_dir: LayerDir, flags: int
    ) -> None:
        self.modes.widen_to_move(work_dir, name, layer_dir, target)
        if flags == _native.RENAME_EXCHANGE:
            self.modes.widen_to_move(layer_dir, target, layer_dir, target)
        _native.renameat2(work_dir.fd(), name, layer_dir.fd(), target, flags)

    def _subdirectory(self, name: bytes) -> LayerDir:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, _DIRECTORY_MODE, dir_fd=self._layer.root.fd())
        layer_dir = self._layer.root.child(name)
        try:  # what is made here takes its ACL from where it will be, not from the work directory
            os.removexattr(layer_dir.proc_path(), DEFAULT_ACL)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
        return layer_dir


def _remove_tree(layer_dir: LayerDir, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=layer_dir.fd())
    except IsADirectoryError:
        with contextlib.suppress(OSError):  # it is empty, mostly
            os.rmdir(name, dir_fd=layer_dir.fd())
            return
        child = layer_dir.child(name)
        if child.stat().st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(child.proc_path(), stat.S_IRWXU)
        for below in os.listdir(child.proc_path()):
            _remove_tree(child, below)
        child.close()
        os.rmdir(name, dir_fd=layer_dir.fd())
