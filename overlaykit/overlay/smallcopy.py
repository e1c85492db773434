"""Copy-up of a small plain file in as few steps as it takes: most copy-ups are of such files.

A plain file is a regular one without extended attributes, set-ID bits and holes, that has one name and that no program
has open. Its copy is made as `copyup` makes others, and reaches the same steps. Whatever is not plain, and whatever
fails before the copy has its name, is left to `copyup`, which knows the ways out and reports the error.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

from overlaykit import _native, attributes
from overlaykit.beneath import NEW_FILE
from overlaykit.inodes import FICLONE
from overlaykit.overlay import originals
from overlaykit.overlay.failure import fail
from overlaykit.overlay.faults import reach
from overlaykit.overlay.liveness import Version

if TYPE_CHECKING:
    from overlaykit.overlay.copyup import CopyUp
    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.nodes import Directory, File

_MOST: Final = 1 << 17
"""Bytes of a small file, unless the caller says so."""

_SOURCE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""O_NONBLOCK: what a live lower has there now may be a FIFO."""

_SECTOR: Final = 512
"""The unit of st_blocks."""


class SmallCopies:
    """Copies small plain files up for `copyup`."""

    def __init__(self, copyup: CopyUp) -> None:
        self._copyup = copyup
        layer = copyup.work.layer_dir.layer
        self._is_on = layer.override is None and copyup.quota is None
        self._no_clones: set[int] = set()
        """Devices of lowers whose files the upper cannot share the data of."""

    def begin(
        self, node: File, *, keep_data: bool, metadata_only: bool, most: int = _MOST
    ) -> SmallCopy | None:
        """Start the copy-up of a file, if it is a plain one of at most `most` bytes. The others: as of `CopyUp.begin`.

        The caller runs `transfer` and `finish`, and always `close`. Returns: None: nothing is made. Requires: the file
        needs a copy-up, or has an upper.
        """
        lower = node.lower_dir
        if (
            not _is_plain_node(node)
            or node.kind != stat.S_IFREG
            or lower is None
            or (metadata_only and self._copyup.metacopy)
        ):
            return None
        ((directory, name),) = node.links
        return self._begin(
            directory, name, lower, node.lower_name, node, keep_data=keep_data, most=most
        )

    def begin_below(
        self, directory: Directory, name: bytes, place: int, *, keep_data: bool, most: int
    ) -> SmallCopy | None:
        """As `begin`, of a regular file that has no node: the lower at the index `place` shows under the name."""
        if directory.upper is None or directory.orphaned or place >= len(directory.lowers):
            return None
        lower = directory.lowers[place]
        return self._begin(directory, name, lower, name, None, keep_data=keep_data, most=most)

    def _begin(
        self,
        directory: Directory,
        name: bytes,
        lower: LayerDir,
        lower_name: bytes,
        node: File | None,
        *,
        keep_data: bool,
        most: int,
    ) -> SmallCopy | None:
        layer = lower.layer
        if (
            not self._is_on
            or layer.override is not None
            or layer.idmapped
            or self._copyup.modes.active
        ):
            return None
        try:
            source = os.open(lower_name, _SOURCE, dir_fd=lower.fd())
        except OSError:
            return None
        try:
            st = os.fstat(source)
            if not _is_plain(st, most) or os.listxattr(source) or _has_changed(node, st):
                return None
            if directory.upper is None:
                self._copyup.directory(directory)
            size = st.st_size if keep_data else 0
            copy = SmallCopy(self._copyup, directory, name, node, st, size)
            self._make(copy, source, lower, lower_name)
            return copy
        except OSError:
            return None
        finally:
            os.close(source)

    def _make(self, copy: SmallCopy, source: int, lower: LayerDir, lower_name: bytes) -> None:
        """Make the file in the work directory. Raises OSError, with nothing made."""
        copyup = self._copyup
        st = copy.stat
        name = copyup.work.new_name()
        # Its owner may write to it until the marker is set.
        mode = stat.S_IMODE(st.st_mode) | 0o600
        target = os.open(name, NEW_FILE | os.O_NOATIME, mode, dir_fd=copyup.work.layer_dir.fd())
        copy.made(name, target)
        try:
            reach("copyup.made")
            if copy.size:  # first: the disk writes them during the other steps
                copy.content = self._copy_data(source, target, st)
                copyup.begin_sync(target)
            origin = copyup.origins.find(lower, lower_name, st.st_dev)
            if origin is not None:
                origin = copyup.noted(origin, st)
                copyup.markers.set_origin(target, origin)
            copyup.inodes.set_owner_and_mode(target, st)
            os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))
            if copyup.originals >= 0 and origin is not None:
                content = target if copy.size else source
                path = b"/".join((*lower.components(), lower_name))
                originals.keep(copyup.originals, source, content, st, origin, path)
            reach("copyup.copied")
        except BaseException:
            copy.close()
            raise

    def _copy_data(self, source: int, target: int, st: os.stat_result) -> bytes:
        """Returns: the data; nothing if the disk shares them."""
        if st.st_dev not in self._no_clones:
            try:
                fcntl.ioctl(target, FICLONE, source)
            except OSError:
                self._no_clones.add(st.st_dev)
            else:
                return b""
        data = os.pread(source, st.st_size, 0)
        if os.pwrite(target, data, 0) != st.st_size:
            raise OSError  # the file has shrunk, or the disk is full
        return data


class SmallCopy:
    """The copy-up of a small plain file, of which `transfer` syncs `size` bytes. As `copyup.FileCopy`.

    `stat`: the attributes of the lower's file. `content`: all its data, or nothing.
    """

    __slots__ = (
        "_copyup",
        "_directory",
        "_link",
        "_name",
        "_node",
        "_target",
        "content",
        "size",
        "stat",
    )

    def __init__(
        self,
        copyup: CopyUp,
        directory: Directory,
        link: bytes,
        node: File | None,
        st: os.stat_result,
        size: int,
    ) -> None:
        self._copyup = copyup
        self._target = -1
        self._name = b""  # in the work directory, until it is finished
        self._directory = directory
        self._link = link
        self._node = node
        self.stat = st
        self.size = size
        self.content = b""

    def made(self, name: bytes, target: int) -> None:
        """Take over a file of the work directory, and a descriptor of it."""
        self._name = name
        self._target = target

    def transfer(self) -> None:
        """Sync the data. Raises OSError: ENOSPC and the like from the disk."""
        if self.size:
            self._copyup.sync(self._target)
        reach("copyup.synced")

    def finish(self, *, keeps_times: bool = True) -> None:
        """Rename the copy into place. Raises OSError, with nothing copied up: then `copyup` has to copy the file.

        `keeps_times`: of the directory; not if the caller changes it next.
        """
        node = self._node
        copyup = self._copyup
        directory, name = self._directory, self._link
        if node is not None:
            if node.has_upper:
                return  # lost the race with another copy-up, which may have been written to: drop this copy
            if not _is_plain_node(node) or copyup.modes.active:
                fail(errno.ESTALE)
            ((directory, name),) = node.links
        parent = copyup.directory(directory, name)
        copyup.mark_impure(parent)
        if node is None and name in directory.children:
            fail(errno.ESTALE)  # it has got a node
        above = parent.fd()
        before = os.fstat(above) if keeps_times else None
        work = copyup.work.layer_dir.fd()
        _native.renameat2(work, self._name, above, name, _native.RENAME_NOREPLACE)
        reach("copyup.published")
        self._name = b""
        if node is not None:
            node.mark_copied_up()
            copyup.table.change_times.keep(node.nodeid, self.stat.st_ctime_ns)
            copyup.table.forget_lower(node)
        if before is None:
            return
        with contextlib.suppress(OSError):  # as `copyup.Times`
            attributes.set_times(
                above, b"", before.st_atime_ns, before.st_mtime_ns, _native.AT_EMPTY_PATH
            )

    def take(self) -> int:
        """A descriptor of the copy, which reads and writes, the caller's to close; -1 if it was dropped."""
        if self._name:
            return -1
        target, self._target = self._target, -1
        return target

    def close(self) -> None:
        """Close the descriptor, unless it was taken, and remove the copy unless it was finished."""
        if self._target >= 0:
            os.close(self._target)
            self._target = -1
        if self._name:
            self._copyup.work.remove(self._name)
            self._name = b""


def _is_plain_node(node: File) -> bool:
    """Whether it is a file of a lower with one name, not open, and no metacopy."""
    return not node.has_upper and len(node.links) == 1 and node.opened is None and node.data is None


def _has_changed(node: File | None, st: os.stat_result) -> bool:
    """Whether a live lower has another file than the one that the kernel knows."""
    return node is not None and node.told is not None and Version.of(st) != node.told


def _is_plain(st: os.stat_result, most: int) -> bool:
    return (
        stat.S_ISREG(st.st_mode)
        and 0 < st.st_size <= most
        and st.st_nlink == 1
        and not st.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
        and st.st_blocks * _SECTOR >= st.st_size
    )
