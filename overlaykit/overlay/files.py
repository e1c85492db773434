"""Open files: one descriptor for each file, shared by all its handles, swapped by copy-up.

Under the writeback cache (Documentation/filesystems/fuse/fuse-io.rst) the kernel reads through descriptors that a
program opened for writing only, and appends itself: so files are always opened for reading and writing, without
O_APPEND. The kernel also owns the modification time, and sends it only once it has changed: so the daemon restores that
time after its own writes. A file of a lower is opened for reading only: it is copied up when it is opened for writing,
or at the latest before the first write.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from overlaykit import _native, attributes
from overlaykit.overlay.failure import fail
from overlaykit.overlay.layer import FUSE
from overlaykit.overlay.liveness import is_same_inode
from overlaykit.overlay.nodes import File
from overlaykit.overlay.openfile import OpenFile
from overlaykit.overlay.operation import operation
from overlaykit.overlay.quota import is_nameless

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from overlaykit.overlay.descriptors import Descriptors
    from overlaykit.overlay.location import Location
    from overlaykit.overlay.nodes import Node
    from overlaykit.overlay.tree import Tree

_READ_ONLY: Final = (errno.EROFS, errno.EACCES, errno.EPERM)
"""The disk became read-only, or the file is (chattr(1) +i, a mode that binds the daemon): reading still works."""


_CAPABILITY: Final = "security.capability"

_QUICK: Final = 1 << 20
"""Bytes: files of at most this size are copied up when they are opened for writing, not later."""


def wants_to_write(flags: int) -> bool:
    """Whether open(2)'s flags ask for more than reading."""
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)


class _ByHandle(dict[int, OpenFile]):
    """Open files by FUSE's file handle. Raises OSError (EBADF) for one that is unknown."""

    def __missing__(self, handle: int) -> OpenFile:
        fail(errno.EBADF)


class Files:
    """Opens, reads and writes files.

    `by_handle`: the open files by FUSE's file handle. `writes_back`: the kernel's writeback cache is on.
    `no_open`: programs open files without a request, so `hold` opens a file when it is first read or written to, and it
    stays open until the kernel forgets it.
    """

    def __init__(self, tree: Tree, descriptors: Descriptors, *, volatile: bool = False) -> None:
        self.modes = tree.modes
        self._tree = tree
        self._volatile = volatile
        self.descriptors = descriptors
        self.by_handle = _ByHandle()
        self.writes_back = True
        self._serial = 0
        self.no_open = False

    @operation
    def may_copy_later(self, node: File) -> bool:
        """Whether a file that is opened for writing may stay in its lower until the first write.

        Many programs that open for writing write nothing, or truncate first: then there are no data to copy. But an
        error of a later copy-up is reported late, by fsync(2) or close(2): so only large files, if the disk has room.
        """
        if not node.needs_copy() or node.kind != stat.S_IFREG:
            return False
        size = self._tree.stat(node).st_size
        if size <= _QUICK:
            return False
        disk = os.statvfs(self._tree.work.layer_dir.fd())
        quota = self._tree.quota
        if quota is not None and size > quota.free():
            return False
        return size <= disk.f_bavail * disk.f_frsize and not disk.f_flag & os.ST_RDONLY

    @operation
    def open(self, node: File, flags: int, *, lazily: bool = False) -> int:
        """A handle. `flags`: as of open(2). `lazily`: the caller copies the file up before it writes.

        Raises OSError: EROFS, EACCES and the like from the layers, EIO for a file whose data are elsewhere.
        """
        writing = wants_to_write(flags)
        if writing and node.needs_copy():
            copyup = self._tree.copyup
            if lazily:
                # Few programs check close(2): so report now all errors but a lack of room.
                copyup.rehearse(node)
            else:
                copyup.file(node, keep_data=not flags & os.O_TRUNC)
        writing = writing and not node.needs_copy()
        opened = node.opened
        if opened is None:
            opened = self._remember(node, *self._open_inode(node, writing=writing))
            if self._tree.quota is not None and is_nameless(opened):
                self._tree.quota.reopen(opened.fd)
        elif writing and not opened.writable:
            opened.swap(_open_quietly(self._tree.writable_location(node), os.O_RDWR))
        opened.direct = opened.direct or bool(flags & os.O_DIRECT)
        opened.lazily = opened.lazily or lazily
        if flags & os.O_TRUNC:
            opened.modified = None
            self._resize(opened.fd, 0, opened)
        opened.count += 1
        return opened.handle

    def adopt(self, node: File, fd: int) -> int:
        """A handle of a file that was just created. Takes its descriptor over."""
        opened = self._remember(node, fd, True)
        opened.count = 0 if self.no_open else 1
        return opened.handle

    def adopt_copy(self, node: File, fd: int, flags: int) -> int:
        """As `open`, of a file that was just copied up. Takes a descriptor of the copy over, which reads and writes."""
        handle = self.adopt(node, fd)
        self.by_handle[handle].direct = bool(flags & os.O_DIRECT)
        return handle

    @operation
    def hold(self, node: File, *, writing: bool = False) -> int:
        """The handle of a file that programs have opened without a request.

        Requires, with `writing`: it needs no copy-up. Raises OSError: as `open`.
        """
        opened = node.opened
        if opened is None:
            opened = self._remember(node, *self._open_inode(node, writing=writing))
        elif writing and not opened.writable:
            opened.swap(_open_quietly(self._tree.writable_location(node), os.O_RDWR))
        return opened.handle

    def release(self, handle: int) -> None:
        opened = self.by_handle[handle]
        self.restore_times(handle)
        opened.count -= 1
        if opened.count == 0:
            try:
                self.end(opened)
            finally:  # a disk may report a failed write only now
                self._tree.table.evict_if_unused(opened.node)

    def end(self, opened: OpenFile) -> None:
        """Close an open file that no handle needs any more. Raises OSError: as `OpenFile.close`."""
        self.restore_times(opened.handle)
        del self.by_handle[opened.handle]
        if self._tree.quota is not None:
            self._tree.quota.close(opened, named=not is_nameless(opened))
        opened.node.mark_closed()
        opened.close()

    def give_away(self, opened: OpenFile) -> None:
        """Forget an open file, whose descriptor is the plane's from now on."""
        del self.by_handle[opened.handle]
        opened.node.mark_closed()
        opened.give_away()

    def close(self) -> None:
        """Close the descriptors of all handles."""
        for handle in list(self.by_handle):
            self.restore_times(handle)
            self.by_handle.pop(handle).close()

    def read(self, handle: int, offset: int, size: int) -> bytes:
        return os.pread(self.by_handle[handle].fd, size, offset)

    def write(self, handle: int, offset: int, data: bytes, *, past_cache: bool = False) -> int:
        """Write all of `data`. `past_cache`: it does not come from the kernel's cache.

        What does was written by a program earlier, and the kernel has taken the set-ID bits and the capability away
        then: what the file has got since, or had when it was mapped, stays.
        Raises OSError: EBADF for a file in a lower, which is never written to; ENOSPC, with that part written for which
        the quota has room.
        """
        opened = self.by_handle[handle]
        if not opened.writable:
            fail(errno.EBADF)
        if self.writes_back and opened.modified is None and not opened.direct:
            opened.modified = os.fstat(opened.fd).st_mtime_ns
        opened.unsynced = True
        quota = self._tree.quota
        room = len(data) if quota is None else quota.admit(opened, offset, len(data))
        rights = None if past_cache else _Rights.of(opened.fd)
        try:
            _write_all(opened.fd, data[:room] if room < len(data) else data, offset)
        finally:
            if rights is not None:
                rights.put_back(opened.fd)
        if room < len(data):
            fail(errno.ENOSPC)
        if self.no_open and opened.asked_ns:  # no request comes at the end of the writes
            self.restore_times(handle)
        return len(data)

    def restore_times(self, handle: int) -> None:
        """Restore the modification time that the kernel sent before the writes, unless it has been set since."""
        opened = self.by_handle[handle]
        if opened.modified is not None:
            modified, opened.modified = opened.modified, None
            if opened.is_before_writes(modified):
                return
            with contextlib.suppress(OSError):  # an idle file may be out of reach
                _put_back(opened.fd, modified)

    def keeping_times(self, node: Node) -> OpenFile | None:
        """The open file that knows of changes of a node's times; None if no program can have it open."""
        if not isinstance(node, File):
            return None
        if self.no_open and node.opened is None and node.kind == stat.S_IFREG:
            with contextlib.suppress(OSError):  # then nothing was written to it either
                self.hold(node)
        return node.opened

    def resize(self, node: File, size: int) -> None:
        """Truncate or extend a file that has an upper, and keep its modification time if the kernel has it."""
        opened = node.opened if node.opened is not None and node.opened.writable else None
        fd = opened.fd if opened else self._tree.writable_location(node).open(os.O_WRONLY)
        try:
            before = os.fstat(fd).st_mtime_ns
            self._resize(fd, size, opened)
            if self.writes_back:
                _put_back(fd, before)
        finally:
            if opened is None:
                os.close(fd)

    def _resize(self, fd: int, size: int, opened: OpenFile | None) -> None:
        """Truncate or extend the file open as `fd`; `opened`: its open file, if it has one."""
        quota = self._tree.quota
        if quota is None:
            os.ftruncate(fd, size)
            return
        quota.settle(opened)
        before = os.fstat(fd)
        os.ftruncate(fd, size)
        quota.change(before, os.fstat(fd))

    @contextlib.contextmanager
    def syncing(self, handle: int) -> Iterator[int]:
        """A descriptor for fsync(2) in a thread. Raises OSError: the error of an earlier sync of an idle file."""
        opened = self.by_handle[handle]
        if opened.failure:
            failure, opened.failure = opened.failure, 0
            fail(failure)
        opened.users += 1
        opened.unsynced = False
        try:
            yield opened.fd
        except BaseException:
            opened.unsynced = True
            raise
        finally:
            opened.users -= 1

    def wake(self, node: Node) -> None:
        """Open the descriptor of an open file. Requires: called before a change that may prevent a later open."""
        if isinstance(node, File) and node.opened is not None:
            _ = node.opened.fd

    def may_reopen(self, opened: OpenFile, fd: int) -> bool:
        """Whether an idle file's descriptor can be closed, without losing the report of a failed write.

        The kernel reports a failed write to descriptors that were open then, or are opened before the report
        (errseq_t).
        """
        if attributes.file_system_of(fd) == FUSE:  # its inode numbers may change
            return False
        wanted = os.R_OK | os.W_OK if opened.writable else os.R_OK
        st = os.fstat(fd)
        try:
            location = self._tree.data_location(opened.node)
            if not os.path.samestat(location.stat(), st) or not os.access(
                location.name,
                wanted,
                dir_fd=location.dirfd,
                effective_ids=True,
                follow_symlinks=location.follow,
            ):
                return False
        except OSError:
            return False
        opened.identity = (st.st_dev, st.st_ino)
        if opened.unsynced and not self._volatile:
            opened.unsynced = False
            try:
                os.fdatasync(fd)
            except OSError as error:
                opened.failure = error.errno or errno.EIO
        return True

    @operation
    def reopen(self, opened: OpenFile) -> int:
        """A new descriptor of an idle file. Raises OSError: ESTALE if its name leads to another inode."""
        location = self._tree.data_location(opened.node)
        fd = _open_quietly(location, os.O_RDWR if opened.writable else os.O_RDONLY)
        st = os.fstat(fd)
        if opened.identity != (st.st_dev, st.st_ino):
            os.close(fd)
            fail(errno.ESTALE)
        return fd

    def growth(self, node: File) -> tuple[int, bytes] | None:
        """What others have appended to an open file of a live lower since the kernel was told: where it ends now.

        None if there is nothing, or a program may write to the file: then the kernel has its size. The caller tells the
        kernel. Returns: the place of the last byte, and that byte. Raises: OSError.
        """
        opened = node.opened
        if node.told is None or node.has_upper or opened is None or opened.lazily or opened.is_idle:
            return None
        size = os.fstat(opened.fd).st_size
        if size <= node.known_size or node.kind != stat.S_IFREG or node.metacopy:
            return None
        node.mark_grown(size)
        return size - 1, os.pread(opened.fd, 1, size - 1)

    def to_copy_first(self, handle: int) -> File | None:
        """The file of a handle, if it needs a copy-up before a write; else None."""
        opened = self.by_handle[handle]
        return None if opened.writable else opened.node

    def is_written(self, handle: int) -> bool:
        """Whether the handle's file may have been written to, if only before the upper was frozen."""
        opened = self.by_handle[handle]
        lower = opened.node.lower_dir
        return opened.writable or (lower is not None and lower.layer.frozen)

    def readers(self) -> dict[OpenFile, int]:
        """Descriptors, which only read, of the open files of the upper that have names; the caller closes them.

        Raises: OSError.
        """
        found: dict[OpenFile, int] = {}
        try:
            for opened in self.by_handle.values():
                if opened.writable and not opened.is_idle and opened.node.is_in_layer:
                    found[opened] = self._reader(opened.node)
        except BaseException:
            for fd in found.values():
                os.close(fd)
            raise
        return found

    @operation
    def _reader(self, node: File) -> int:
        return _open_quietly(self._tree.writable_location(node), os.O_RDONLY)

    def freeze(self, readers: Mapping[OpenFile, int]) -> None:
        """Let all open files of the upper but those without a name go on as those of a lower. Takes `readers` over."""
        for opened in self.by_handle.values():
            if opened.node.is_in_layer:
                self.restore_times(opened.handle)
                opened.freeze(readers.get(opened, -1))

    def _open_inode(self, node: File, *, writing: bool) -> tuple[int, bool]:
        """A descriptor of the node's inode, and whether it can write: an upper's can, unless the disk refuses that."""
        location = self._tree.data_location(node)
        writable = not node.needs_copy() and self._tree.writable  # a metacopy's data are not
        if writable:
            try:
                fd = _open_quietly(location, os.O_RDWR)
            except OSError as error:
                if writing or error.errno not in _READ_ONLY:
                    raise
                writable = False
        if not writable:
            fd = _open_quietly(location, os.O_RDONLY)
        if node.kind != stat.S_IFREG or (node.has_upper and not node.metacopy):
            return fd, writable
        try:
            if node.data is None:
                if node.told is not None and not is_same_inode(node.told, os.fstat(fd)):
                    fail(errno.ESTALE)  # a live lower's name leads elsewhere now
                self._tree.metacopies.learn(node, fd)
                if node.metacopy:
                    metadata, fd = fd, -1
                    os.close(metadata)
                    fd = _open_quietly(self._tree.data_location(node), os.O_RDONLY)
            if node.data is not None:
                self._tree.metacopies.verify(node.data, fd)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            raise
        return fd, writable

    def _remember(self, node: File, fd: int, writable: bool) -> OpenFile:
        self._serial += 1
        opened = OpenFile(self._serial, node, fd, writable=writable, files=self)
        self.by_handle[self._serial] = opened
        node.mark_opened(opened)
        return opened


class _Rights(NamedTuple):
    """What a write of the daemon's may take away from a file: its mode with set-ID bits, and its capability."""

    mode: int
    capability: bytes

    @classmethod
    def of(cls, fd: int) -> _Rights | None:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        capability = b""
        with contextlib.suppress(OSError):  # it has none, or one of another user namespace
            capability = os.getxattr(fd, _CAPABILITY)
        return cls(mode, capability) if capability or mode & (stat.S_ISUID | stat.S_ISGID) else None

    def put_back(self, fd: int) -> None:
        """Restore them, as far as that is permitted."""
        with contextlib.suppress(OSError):
            if stat.S_IMODE(os.fstat(fd).st_mode) != self.mode:
                os.fchmod(fd, self.mode)
            if self.capability:
                os.setxattr(fd, _CAPABILITY, self.capability)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    written = 0
    # The kernel's writeback ignores a short count, but not an error.
    while written < len(data):
        written += os.pwrite(fd, data[written:] if written else data, offset + written)


def read_quietly(fd: int) -> None:
    """Set O_NOATIME on a new descriptor, if the kernel permits it."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NOATIME)


def _open_quietly(location: Location, access: int) -> int:
    """Open with O_NOATIME, if possible: most reads come from the kernel's cache, and change no access time either."""
    try:
        return location.open(access | os.O_NOATIME)
    except PermissionError:  # only the owner may set O_NOATIME
        return location.open(access)


def _put_back(fd: int, modified: int) -> None:
    """Set a modification time, in nanoseconds, if permitted: another owner's file may only be written to."""
    with contextlib.suppress(OSError):
        attributes.set_times(fd, b"", None, modified, _native.AT_EMPTY_PATH)
