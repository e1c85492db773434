"""A directory as the source of a stored layer."""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING

from overlaykit import _native, inodes
from overlaykit.beneath import BENEATH
from overlaykit.errors import Error
from overlaykit.layers.checks import UnreadableDirectory, check_directory
from overlaykit.layers.layer import Layer
from overlaykit.layers.tree import Tree, Usage
from overlaykit.progress import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

_SET_ID = stat.S_ISUID | stat.S_ISGID


class UnreadableFile(Error):
    message = (
        "{0!r} cannot be read by you, so it cannot be copied; make it readable, or run as its owner"
    )


class StoreInside(Error):
    message = "{0} contains the layer store {1}; copy a directory below it, or use another store"


class DeviceNeedsRoot(Error):
    message = "only root can make the device {0!r}; add the layer as root, or leave the device out"


class DirectorySource:
    """`dir:PATH`. The copy keeps reflinks, holes, hard links, times, xattrs, whiteouts and special files.

    As root it also keeps owners, set-user-ID bits and all xattrs. Otherwise all files belong to the user, without these
    bits and the xattrs that only root may set (`security.*`, `trusted.*`). Mounts below are copied too, as by cp -a.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        check_directory(self._path)

    def __str__(self) -> str:
        return f"dir:{self._path}"

    def unpack(self, tree: Tree, scratch: str, base: Layer | None) -> Usage:
        """Copy the directory into `tree`; see `overlaykit.layers.source.Source`."""
        root = os.path.realpath(self._path)
        if os.path.commonpath([root, os.path.realpath(scratch)]) == root:
            raise StoreInside(self._path, os.path.dirname(os.path.dirname(scratch)))
        source = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _Copy(source, self._path, tree).run()
            return tree.seal()
        finally:
            os.close(source)


class _Copy:
    """One copy. Invariant: `_links` maps each inode with more than one name to its first path."""

    def __init__(self, source: int, shown: str, tree: Tree) -> None:
        self._source = source
        self._shown = shown
        self._tree = tree
        self._links: dict[tuple[int, int], bytes] = {}

    def run(self) -> None:
        self._tree.directory(b"", partial(self._finish, b""))
        for path, status in counted(self._below(), "copying files"):
            if stat.S_ISDIR(status.st_mode):
                self._tree.directory(path, partial(self._finish, path))
            else:
                self._copy(path, status)

    def _below(self) -> Iterator[tuple[bytes, os.stat_result]]:
        """All paths, each directory before what it holds."""
        directories = [b""]
        # The loop extends the list.
        for directory in directories:
            for path, status in self._children(directory):
                if stat.S_ISDIR(status.st_mode):
                    directories.append(path)
                yield path, status

    def _children(self, directory: bytes) -> list[tuple[bytes, os.stat_result]]:
        fd = self._open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(fd) as entries:
                return [
                    (os.path.join(directory, os.fsencode(e.name)), e.stat(follow_symlinks=False))
                    for e in entries
                ]
        finally:
            os.close(fd)

    def _copy(self, path: bytes, status: os.stat_result) -> None:
        inode = (status.st_dev, status.st_ino)
        if inode in self._links:
            self._tree.link(path, self._links[inode])
            return
        if status.st_nlink > 1:
            self._links[inode] = path
        finish = partial(self._finish, path)
        if stat.S_ISREG(status.st_mode):
            self._tree.file(path, finish)
        elif stat.S_ISLNK(status.st_mode):
            self._tree.symlink(path, self._target(path), finish)
        else:
            try:
                self._tree.node(path, stat.S_IFMT(status.st_mode), status.st_rdev, finish)
            except PermissionError:
                raise DeviceNeedsRoot(self._show(path)) from None

    def _finish(self, path: bytes, made: int) -> None:
        regular = stat.S_ISREG(os.fstat(made).st_mode)
        # O_NONBLOCK: a FIFO may have replaced the file, and open(2) would wait for a writer.
        original = self._open(path, os.O_RDONLY | os.O_NONBLOCK if regular else os.O_PATH)
        try:
            self._copy_attributes(original, made)
        # An error of a descriptor has no path.
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._show(path)) from error
        finally:
            os.close(original)

    def _copy_attributes(self, original: int, made: int) -> None:
        withheld = self._tree.withheld_xattrs
        if self._tree.keeps_owners:
            inodes.copy(original, made, skip_xattrs=withheld)
            return
        inodes.copy(original, made, uid=os.geteuid(), gid=os.getegid(), skip_xattrs=withheld)
        mode = os.fstat(made).st_mode
        if mode & _SET_ID and not stat.S_ISLNK(mode):
            os.chmod(f"/proc/self/fd/{made}", stat.S_IMODE(mode) & ~_SET_ID)

    def _open(self, path: bytes, flags: int) -> int:
        try:
            return _native.openat2(
                self._source, path or b".", flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0, BENEATH
            )
        except PermissionError:
            kind = UnreadableDirectory if flags & os.O_DIRECTORY else UnreadableFile
            raise kind(self._show(path)) from None

    def _target(self, path: bytes) -> bytes:
        fd = self._open(path, os.O_PATH)
        try:
            # readlinkat(2) of the descriptor itself.
            return os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)

    def _show(self, path: bytes) -> str:
        return os.path.join(self._shown, os.fsdecode(path))
