"""Copy-up of a small plain file in as few steps as it takes: most copy-ups are of such files.

A plain file is a regular one without extended attributes, set-ID bits and holes, that has one name and that no program
has open. Its copy is made as `copyup` makes others, and reaches the same steps. Whatever is not plain, and whatever
fails before the copy has its name, is left to `copyup`, which knows the ways out and reports the error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

from overlaykit import _native, attributes
from overlaykit.beneath import NEW_FILE
from overlaykit.inodes import FICLONE
from overlaykit.overlay import originals
from overlaykit.overlay.faults import reach

if TYPE_CHECKING:
    from overlaykit.overlay.copyup import CopyUp
    from overlaykit.overlay.nodes import File

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

    def copy(self, node: File, *, keep_data: bool, metadata_only: bool, most: int = _MOST) -> int:
        """Copy a file up, if it is a plain one of at most `most` bytes. The others: as of `CopyUp.begin`.

        Returns: a descriptor of the copy, which reads and writes, the caller's to close; -1: nothing is copied.
        Requires: the file needs a copy-up.
        """
        lower = node.lower_dir
        if (
            not self._is_on
            or node.has_upper
            or node.kind != stat.S_IFREG
            or len(node.links) != 1
            or node.opened is not None
            or node.data is not None
            or (metadata_only and self._copyup.metacopy)
            or lower is None
            or lower.layer.override is not None
            or lower.layer.idmapped
            or self._copyup.modes.active
        ):
            return -1
        try:
            source = os.open(node.lower_name, _SOURCE, dir_fd=lower.fd())
        except OSError:
            return -1
        try:
            st = os.fstat(source)
            if not _is_plain(st, most) or os.listxattr(source):
                return -1
            return self._copy(node, source, st, keep_data=keep_data)
        except OSError:
            return -1
        finally:
            os.close(source)

    def _copy(self, node: File, source: int, st: os.stat_result, *, keep_data: bool) -> int:
        """Raises OSError, with nothing copied."""
        copyup = self._copyup
        work = copyup.work
        lower = node.lower_dir
        assert lower is not None
        ((directory, link),) = node.links
        parent = copyup.directory(directory, link)
        origin = copyup.origins.find(lower, node.lower_name, st.st_dev)
        if origin is not None:
            origin = copyup.noted(origin, st)
        name = work.new_name()
        # Its owner may write to it until the marker is set.
        mode = stat.S_IMODE(st.st_mode)
        target = os.open(name, NEW_FILE | os.O_NOATIME, mode | 0o600, dir_fd=work.layer_dir.fd())
        try:
            reach("copyup.made")
            if origin is not None:
                copyup.markers.set_origin(target, origin)
            size = st.st_size if keep_data else 0
            if size:
                self._copy_data(source, target, st)
            copyup.inodes.set_owner_and_mode(target, st)
            os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))
            if copyup.originals >= 0 and origin is not None:
                content = target if size else source
                originals.keep(copyup.originals, source, content, st, origin)
            reach("copyup.copied")
            if size:
                copyup.sync(target)
            reach("copyup.synced")
            copyup.mark_impure(parent)
            above = parent.fd()
            before = os.fstat(above)
            _native.renameat2(work.layer_dir.fd(), name, above, link, _native.RENAME_NOREPLACE)
        except BaseException:
            os.close(target)
            work.remove(name)
            raise
        reach("copyup.published")
        node.mark_copied_up()
        copyup.table.change_times.keep(node.nodeid, st.st_ctime_ns)
        copyup.table.forget_lower(node)
        with contextlib.suppress(OSError):  # as `copyup.Times`
            attributes.set_times(
                above, b"", before.st_atime_ns, before.st_mtime_ns, _native.AT_EMPTY_PATH
            )
        return target

    def _copy_data(self, source: int, target: int, st: os.stat_result) -> None:
        if st.st_dev not in self._no_clones:
            try:
                fcntl.ioctl(target, FICLONE, source)
            except OSError:
                self._no_clones.add(st.st_dev)
            else:
                return
        data = os.pread(source, st.st_size, 0)
        if os.pwrite(target, data, 0) != st.st_size:
            raise OSError  # the file has shrunk, or the disk is full


def _is_plain(st: os.stat_result, most: int) -> bool:
    return (
        stat.S_ISREG(st.st_mode)
        and 0 < st.st_size <= most
        and st.st_nlink == 1
        and not st.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
        and st.st_blocks * _SECTOR >= st.st_size
    )
