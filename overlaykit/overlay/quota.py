"""Quota: a limit of what the upper takes on its disk, kept by the daemon where the file system keeps none.

Counted are the blocks (st_blocks, stat(2)) of every inode of the upper and of the index, and of removed files that are
still open. `Quota.used` is never less than that: growth is added before it happens, at its largest possible amount, and
corrected once the kernel has been asked. A write asks only if its file was not written to since the last correction, or
if the largest possible amount exceeds the limit.

Not counted until the next `recount`: what links, renames and whiteouts add to a directory.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from overlaykit.overlay.failure import fail

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.openfile import OpenFile

_SECTOR: Final = 512
"""Bytes: the unit of st_blocks, on every file system."""

_AHEAD: Final = 64 << 10
"""Bytes beyond a file's size that count at most, beside a part of its size for what describes its blocks. A file system
that allocates ahead of writes (XFS) takes more, and gives it back when the file is closed."""

_REST: Final = 20
"""A recount takes place only after this many times its duration since the last one."""

_LONGEST_PATH: Final = 2048
"""Bytes: well below PATH_MAX. A longer path continues from a descriptor."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def taken(st: os.stat_result) -> int:
    """The bytes that an inode takes on its disk."""
    held = st.st_blocks * _SECTOR
    if stat.S_ISREG(st.st_mode):
        return min(held, st.st_size + (st.st_size >> 6) + _AHEAD)
    return held


class Quota:
    """Counts the bytes that the upper takes. `limit`: as many as it may take. `used`: as many at most as it takes now.

    Invariant: `used` holds, of each open file in `_written`, the bytes that stand there; of every other inode what the
    kernel last said; and of each copy-up under way what it has reserved.
    """

    def __init__(self, limit: int, roots: Iterable[LayerDir], block: int) -> None:
        """Count what is there. `roots`: the upper and the index. `block`: bytes of a block of their file system."""
        self.limit = limit
        self.used = 0
        self._roots = tuple(roots)
        self._block = block
        self._open_files: Mapping[int, OpenFile] = {}
        self._written: dict[OpenFile, int] = {}
        self._directories: dict[int, int] = {}
        self._reserved = 0
        self._is_loose = False
        self._next_recount = 0.0
        self.recount()

    def include(self, open_files: Mapping[int, OpenFile]) -> None:
        """Count the files in `open_files` that have no name any more, too."""
        self._open_files = open_files

    def go_on_in(self, roots: Iterable[LayerDir]) -> None:
        """Count another upper and index, too: what is frozen still takes its room."""
        self._roots += tuple(roots)

    # Growth

    def reserve(self, size: int) -> None:
        """Count `size` more bytes. Raises OSError: ENOSPC."""
        if not self._has_room(size):
            fail(errno.ENOSPC)
        self.used += size

    def reserve_copy(self, source: int, size: int) -> int:
        """Count the copy of a file's first `size` bytes, without its holes. Returns: the bytes that were counted.

        Raises OSError: ENOSPC.
        """
        whole = self._end_of_block(size)
        if self.used + whole > self.limit:
            whole = size - _holes(source, size)
        self.reserve(whole)
        self._reserved += whole
        return whole

    def end_copy(self, reserved: int, copy: int = -1) -> None:
        """Count the finished copy `copy`, a descriptor, instead of what was reserved for it; -1: there is none."""
        self._reserved -= reserved
        self.used -= reserved
        if copy >= 0:
            self.add(os.fstat(copy))

    def add(self, st: os.stat_result) -> None:
        """Count a new inode."""
        self.used += taken(st)

    def see_directory(self, st: os.stat_result) -> None:
        """Count what a directory has grown by since it was last seen."""
        now = taken(st)
        before = self._directories.get(st.st_ino, min(now, self._block))
        if now > before:
            self.used += now - before
            self._directories[st.st_ino] = now

    def admit(self, opened: OpenFile, offset: int, size: int) -> int:
        """Count a write. Returns: how many of its `size` bytes there is room for."""
        largest = self._end_of_block(offset + size) - offset // self._block * self._block
        if self.used + largest > self.limit:
            return self._admit_part(opened, offset, size)
        held = self._written.get(opened)
        if held is None:
            held = taken(os.fstat(opened.fd))
        self._written[opened] = held + largest
        self.used += largest
        return size

    def _admit_part(self, opened: OpenFile, offset: int, size: int) -> int:
        self._settle_all()
        start, end = offset // self._block * self._block, offset + size
        at, grown = self._reach(opened.fd, start, end)
        if at < end and self._recount_if_due():
            at, grown = self._reach(opened.fd, start, end)
        self._written[opened] = taken(os.fstat(opened.fd)) + grown
        self.used += grown
        return max(0, min(at, end) - offset)

    def _reach(self, fd: int, start: int, end: int) -> tuple[int, int]:
        """How far from `start` on the file can be written to, at most to `end`, and what it grows by: in its holes."""
        free = max(0, self.limit - self.used)
        at, grown = start, 0
        while at < end:
            hole_end = min(_next_data(fd, at), end)
            if hole_end > at:
                needed = self._end_of_block(hole_end) - at
                if grown + needed > free:
                    room = (free - grown) // self._block * self._block
                    return at + room, grown + room
                grown += needed
            if hole_end == end:
                break
            # The block in which the file ends has its place.
            at = self._end_of_block(os.lseek(fd, hole_end, os.SEEK_HOLE))
        return end, grown

    # Corrections

    def settle(self, opened: OpenFile | None) -> None:
        """Correct what is counted of an open file. Requires: called before its size or attributes are changed."""
        if opened is None or opened not in self._written:
            return
        try:
            st = os.fstat(opened.fd)
        except OSError:
            # An idle file out of reach: what is counted of it stays until a recount.
            self._is_loose = True
            del self._written[opened]
        else:
            self.used += taken(st) - self._written.pop(opened)

    def change(self, before: os.stat_result, after: os.stat_result) -> None:
        """Count a change of an inode. Requires: `settle` was called before it."""
        self.used += taken(after) - taken(before)
        self._is_loose = True

    def give_back(self, st: os.stat_result) -> None:
        """Count an inode no more, if it has no name."""
        if st.st_nlink == 0:
            self.used -= taken(st)
        self._is_loose = True

    def remove_directory(self, st: os.stat_result) -> None:
        """Count a directory no more. `st`: of before its removal."""
        self.used -= self._directories.pop(st.st_ino, min(taken(st), self._block))
        self._is_loose = True

    def reopen(self, fd: int) -> None:
        """Count a file without a name again: it is opened, and `close` gives it back."""
        st = os.fstat(fd)
        if st.st_nlink == 0:
            self.add(st)

    def close(self, opened: OpenFile, *, named: bool) -> None:
        """Correct what is counted of a file when its last handle ends. `named`: a name leads to it."""
        self.settle(opened)
        if not named:
            self.give_back(os.fstat(opened.fd))

    def recount(self) -> None:
        """Count everything. Takes as long as a search through the whole upper."""
        began = time.monotonic()
        count = _Count(self._block)
        for root in self._roots:
            fd = os.open(b".", _DIRECTORY, dir_fd=root.fd())
            try:
                count.directory(os.fstat(fd))
                count.tree(fd)
            finally:
                os.close(fd)
        self._written.clear()
        for opened in self._open_files.values():
            if is_nameless(opened):
                st = os.fstat(opened.fd)
                count.bytes += taken(st) if st.st_nlink == 0 else 0
        self.used = count.bytes + self._reserved
        self._directories = count.large
        self._is_loose = False
        now = time.monotonic()
        self._next_recount = now + _REST * (now - began)

    def free(self) -> int:
        """As many bytes as there is room for."""
        self._settle_all()
        return max(0, self.limit - self.used)

    def limited(self, disk: os.statvfs_result) -> os.statvfs_result:
        """The state of the file system `disk` as one of the limit's size."""
        free = self.free() // disk.f_frsize
        return os.statvfs_result(
            (
                disk.f_bsize,
                disk.f_frsize,
                self.limit // disk.f_frsize,
                free,
                min(free, disk.f_bavail),
                disk.f_files,
                disk.f_ffree,
                disk.f_favail,
                disk.f_flag,
                disk.f_namemax,
            )
        )

    def _has_room(self, size: int) -> bool:
        if self.used + size <= self.limit:
            return True
        self._settle_all()
        if self.used + size > self.limit:
            self._recount_if_due()
        return self.used + size <= self.limit

    def _recount_if_due(self) -> bool:
        """Recount if that may find room, unless the last one was just before. Returns: whether it has."""
        if not self._is_loose or time.monotonic() < self._next_recount:
            return False
        self.recount()
        return True

    def _settle_all(self) -> None:
        for opened in list(self._written):
            self.settle(opened)

    def _end_of_block(self, offset: int) -> int:
        return -(-offset // self._block) * self._block


def is_nameless(opened: OpenFile) -> bool:
    """Whether an open file of the upper has lost its last known name."""
    node = opened.node
    return node.has_upper and not node.links and not node.metacopy


class _Count:
    """A count of trees. `bytes`: the result. `large`: directories of more than a block, by inode number."""

    def __init__(self, block: int) -> None:
        self.bytes = 0
        self.large: dict[int, int] = {}
        self._block = block
        self._linked: set[int] = set()

    def directory(self, st: os.stat_result) -> None:
        held = taken(st)
        self.bytes += held
        if held > self._block:
            self.large[st.st_ino] = held

    def tree(self, root: int) -> None:
        """Count everything below the directory open as `root`."""
        # The loop extends the list.
        found = [b"."]
        for path in found:
            try:
                fd = os.open(path, _DIRECTORY, dir_fd=root)
            except PermissionError:
                continue  # without CAP_DAC_OVERRIDE, which the daemons of views have
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        self._entry(entry, fd, path, found)
            finally:
                os.close(fd)

    def _entry(self, entry: os.DirEntry[str], fd: int, path: bytes, found: list[bytes]) -> None:
        st = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            self.directory(st)
            name = os.fsencode(entry.name)
            if len(path) + len(name) < _LONGEST_PATH:
                found.append(path + b"/" + name)
                return
            below = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                self.tree(below)
            finally:
                os.close(below)
        elif st.st_nlink == 1 or st.st_ino not in self._linked:
            self.bytes += taken(st)
            if st.st_nlink > 1:
                self._linked.add(st.st_ino)


def _next_data(fd: int, at: int) -> int:
    """The offset of the first data from `at` on; beyond every offset if there are none."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return 1 << 63
        raise


def _holes(fd: int, size: int) -> int:
    """How many of a file's first `size` bytes lie in holes."""
    at = found = 0
    while at < size:
        data = min(_next_data(fd, at), size)
        found += data - at
        if data == size:
            break
        at = os.lseek(fd, data, os.SEEK_HOLE)
    return found
