"""One file on its way up, in three steps, so that a large one delays no other request.

To begin and `finish` touch the tree and are quick; `transfer` moves the bytes, touches only its own two descriptors and
may run in another thread. If the file's names changed in between, `finish` puts the copy where they are then.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from typing import TYPE_CHECKING, Final, TypeAlias

from overlaykit import _native
from overlaykit.overlay.failure import fail
from overlaykit.overlay.faults import reach
from overlaykit.overlay.files import read_quietly
from overlaykit.overlay.layer import INODE, NEW_FILE

if TYPE_CHECKING:
    from overlaykit.overlay.copyup import CopyUp
    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.nodes import Directory, File

_LOWER_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def _open_source(copyup: CopyUp, node: File, *, keep_data: bool) -> tuple[int, os.stat_result]:
    """The lower's file and its attributes. One that is open is that which was opened: a lower may be changed, and
    pages of two files must not be mixed."""
    lower = node.lower_dir
    assert lower is not None
    if node.opened is not None:
        fd = os.dup(node.opened.fd)
        st = os.fstat(fd)
    else:
        below = lower.fd()
        st = lower.layer.read(
            lambda: os.stat(node.lower_name, dir_fd=below, follow_symlinks=False), below
        )
        # Of a file without data nothing needs to be read: a lock file may be one that we must not read.
        flags = _LOWER_FILE if keep_data and st.st_size else INODE
        fd = lower.layer.open(
            lambda: os.open(node.lower_name, flags, dir_fd=below), below, node.lower_name
        )
    if keep_data and st.st_size and copyup.markers.is_metacopy(fd):
        os.close(fd)
        fail(errno.EIO, node.lower_name)  # its data are elsewhere: what is here reads as zeros
    return fd, st


class FileCopy:
    """One file on its way up. `size`: how many bytes `transfer` will move.

    `metacopy`: if it is a regular file, its copy has its length but not its data. Only one without a name is finished
    so: its data stay in the lower.
    """

    def __init__(self, copyup: CopyUp, node: File, *, keep_data: bool, metacopy: bool) -> None:
        lower = node.lower_dir
        assert lower is not None
        assert not node.has_upper
        self._copyup = copyup
        self._node = node
        self._source = -1
        self._target = -1
        self._name = b""  # in the work directory, until it is finished
        regular = node.kind == stat.S_IFREG
        try:
            self._metacopy = metacopy and regular
            keep_data = keep_data and regular and not metacopy
            self._source, self._stat = _open_source(copyup, node, keep_data=keep_data)
            self.size = self._stat.st_size if keep_data else 0
            self._origin = (
                copyup.origin(lower, node.lower_name, self._stat.st_dev)
                if node.opened is None or self._is_still_there(lower)
                else None
            )
            self._name = copyup.work.new_name()
            self._target = self._make_target()
            reach("copyup.made")
        except BaseException:
            self.close()
            raise

    def transfer(self) -> None:
        """Copy data and metadata, and see them to the disk. Raises OSError: ENOSPC and the like, from below."""
        copyup = self._copyup
        assert self._node.lower_dir is not None
        layer = self._node.lower_dir.layer
        path = b"/proc/self/fd/%d" % self._target
        if self._origin is not None:  # before the mode, which may forbid it
            copyup.markers.set_origin(path, self._origin)
        if self._indexed:
            copyup.markers.set_link_count(path, 0, to_upper=False, follow=True)
        if self._metacopy:
            os.ftruncate(self._target, self._stat.st_size)  # EFBIG if the disk has no files as long
        copyup.copy(self._source, self._target, self._stat, layer, data=self.size > 0)
        reach("copyup.copied")
        if self.size and not copyup.volatile:
            os.fsync(self._target)
        reach("copyup.synced")

    def finish(self) -> None:
        """Rename the copy into place and swap open descriptors."""
        self._copyup.modes.past(self._finish)

    def _finish(self) -> None:
        node = self._node
        copyup = self._copyup
        if node.has_upper:
            return  # lost the race with another copy-up, which may be written to already: this copy is dropped
        if self._indexed:
            assert self._origin is not None
            index_name = self._origin.index_name()
            copyup.work.publish(self._name, copyup.work.index, index_name)
            reach("copyup.indexed")
            node.mark_indexed(index_name, self._stat.st_nlink)
            self._hand_over()  # it is found by the index now, even if there is no room for its name
            for directory, name in node.links[:1]:
                copyup.modes.past(functools.partial(copyup.link_up, node, directory, name))
        elif node.links:
            directory, name = node.links[0]
            parent = copyup.directory(directory)
            copyup.mark_impure(parent)
            times = Times(parent)
            copyup.work.publish(self._name, parent, name)
            reach("copyup.published")
            self._hand_over()
            times.restore()
            self._keep_other_names(parent, name)
        else:
            if self._metacopy:
                fd, self._target = self._target, -1
            else:
                fd = os.open(b"/proc/self/fd/%d" % self._target, os.O_PATH | os.O_CLOEXEC)
            node.keep_inode(fd, metacopy=self._metacopy)
            copyup.table.unhash(node)  # a name that is met later is one of the lower's file
            copyup.work.remove(self._name)
            self._hand_over()

    def close(self) -> None:
        """Free the descriptors, and remove the copy unless it was finished."""
        for fd in (self._source, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._target = -1
        if self._name:
            self._copyup.work.remove(self._name)
            self._name = b""

    def _is_still_there(self, lower: LayerDir) -> bool:
        """Whether the name in the lower still means the file that is copied."""
        try:
            below = lower.fd()
            st = lower.layer.read(
                lambda: os.stat(self._node.lower_name, dir_fd=below, follow_symlinks=False), below
            )
        except OSError:
            return False
        return os.path.samestat(st, self._stat)

    def _hand_over(self) -> None:
        """The file lies in the upper from now on."""
        node = self._node
        self._name = b""
        node.mark_copied_up()
        if node.kind == stat.S_IFREG:  # of others the kernel keeps no time
            self._copyup.table.change_times.keep(node.nodeid, self._stat.st_ctime_ns)
        if node.opened is not None and not node.metacopy:
            node.opened.swap(self._target)
            self._target = -1

    def _keep_other_names(self, parent: LayerDir, name: bytes) -> None:
        """Without an index: names that are known stay one file, those met later become a file of their own."""
        node = self._node
        table = self._copyup.table
        table.forget_lower(node)
        others = list(node.links[1:])
        try:
            while others:
                self._copyup.modes.past(functools.partial(self._link, parent, name, *others[0]))
                del others[0]
        except OSError:
            # There was no room for these: they are files of their own already.
            for directory, other in others:
                table.unlink(node, directory, other)
            raise

    def _link(self, parent: LayerDir, name: bytes, directory: Directory, other: bytes) -> None:
        """Give the copy, which is `name` in `parent`, another name."""
        layer_dir = self._copyup.directory(directory)
        self._copyup.mark_impure(layer_dir)
        times = Times(layer_dir)
        os.link(
            name, other, src_dir_fd=parent.fd(), dst_dir_fd=layer_dir.fd(), follow_symlinks=False
        )
        times.restore()

    @property
    def _indexed(self) -> bool:
        return (
            self._copyup.is_indexed(self._node.kind)
            and self._stat.st_nlink > 1
            and self._origin is not None
            and bool(self._node.links)
        )

    def _make_target(self) -> int:
        work = self._copyup.work.layer_dir
        kind = self._node.kind
        if kind == stat.S_IFREG:
            fd = os.open(self._name, NEW_FILE, 0o600, dir_fd=work.fd())
            read_quietly(fd)
            return fd
        if kind == stat.S_IFLNK:
            target = os.readlink(b"", dir_fd=self._source)
            os.symlink(target, self._name, dir_fd=work.fd())
        else:
            os.mknod(self._name, kind | 0o600, self._stat.st_rdev, dir_fd=work.fd())
        return os.open(self._name, INODE, dir_fd=work.fd())


class DataCopy:
    """The data of a metacopy on their way up. `size`: how many bytes `transfer` will move."""

    def __init__(self, copyup: CopyUp, node: File, *, keep_data: bool) -> None:
        self._node = node
        self._source = -1
        self._target = os.dup(node.orphan)
        try:
            self._source, st = _open_source(copyup, node, keep_data=keep_data)
        except BaseException:
            self.close()
            raise
        self.size = st.st_size if keep_data else 0

    def transfer(self) -> None:
        """Copy the data; nothing is synced of what no name leads to. Raises OSError: ENOSPC and the like."""
        if not self.size:
            return
        st = os.fstat(self._target)
        try:
            _native.copy_up(self._source, self._target, metadata=False)
        finally:
            _native.utimensat(
                self._target, b"", st.st_atime_ns, st.st_mtime_ns, _native.AT_EMPTY_PATH
            )

    def finish(self) -> None:
        """Let the file's open handles continue on the copy."""
        self._node.mark_data_copied()
        if self._node.opened is not None:
            self._node.opened.swap(self._target)
            self._target = -1

    def close(self) -> None:
        """Free the descriptors."""
        for fd in (self._source, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._target = -1


Copy: TypeAlias = FileCopy | DataCopy


class Times:
    """An upper directory's times, put back after copy-up made an entry in it: to programs nothing changed there."""

    def __init__(self, layer_dir: LayerDir) -> None:
        self._layer_dir = layer_dir
        self._stat = os.fstat(layer_dir.fd())

    def restore(self) -> None:
        st = self._stat
        fd = self._layer_dir.fd()
        with contextlib.suppress(
            OSError
        ):  # the entry is there, and must not be taken for a failure
            _native.utimensat(fd, b"", st.st_atime_ns, st.st_mtime_ns, _native.AT_EMPTY_PATH)
