"""Probe of the upper's file system: tries each feature in a directory there, rather than guessing from its type.

An upper may lie on another overlay (a container's root), on FUSE or on a network file system; each lacks other features
of a local disk. The probe makes some thirty system calls, once per mount, and leaves nothing behind.
"""

from __future__ import annotations

import errno
import os
import stat

from overlaykit import _native, attributes, handles
from overlaykit.beneath import INODE, NEW_FILE
from overlaykit.overlay.marker_names import (
    AUFS_WHITEOUT,
    TRUSTED_PREFIX,
    USER_PREFIX,
    WHITEOUT_DEVICE,
    is_whiteout_device,
)
from overlaykit.record import Record
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Literal, TypeAlias

Form: TypeAlias = "Literal['device', 'xattr', 'aufs']"
"""The form of a whiteout: a character device 0:0; an empty file with an attribute (Linux 6.7 reads it in lowers); a
file
`.wh.NAME` beside the name."""

_NO_ATTRIBUTES: Final = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS)
_EXT4: Final = 0xEF53
_OF_MEMORY: Final = frozenset((0x01021994, 0x858458F6))
"""tmpfs and ramfs (include/uapi/linux/magic.h)."""
_WRITE: Final = 2
_WRITE_AND_WAIT: Final = 7
"""sync_file_range(2): SYNC_FILE_RANGE_WRITE; with WAIT_BEFORE and WAIT_AFTER, after which an error is reported."""
_ELSEWHERE: Final = "put it on another file system"


class Unfit(OSError):
    """The upper's file system cannot hold the markers. `strerror` is the reason, `remedy` what to do about it."""

    def __init__(self, lack: str, remedy: str) -> None:
        super().__init__(errno.EOPNOTSUPP, lack)
        self.remedy = remedy


class Disk(Record, kw_only=True):
    """The features of a file system, for this process.

    `prefix`: the prefix of markers that it can hold as extended attributes; None: none.
    `whiteout_device`: character devices 0:0 can be made. `whiteout_xattr`: empty files can hold the attribute of a
    whiteout. `aufs_names`: files can be named `.wh.NAME`.
    `rename_whiteout`, `rename_exchange`: renameat2(2) has these flags. `hard_links`: link(2) works.
    `stat_after_unlink`: fstat(2) works for an open file without a name. `file_kinds`: listings give the kinds of files
    (d_type). `file_handles`: name_to_handle_at(2) works. `folds_case`: `a` and `A` are one name.
    `orders_data`: see `sync`. `is_memory`: nothing on it outlives a crash.
    """

    prefix: bytes | None
    whiteout_device: bool
    whiteout_xattr: bool
    aufs_names: bool
    rename_whiteout: bool
    rename_exchange: bool
    hard_links: bool
    stat_after_unlink: bool
    file_kinds: bool
    file_handles: bool
    folds_case: bool
    orders_data: bool
    is_memory: bool

    def begin_sync(self, fd: int) -> None:
        """Have the device write the data of a file, without waiting for it. Raises: as `sync`."""
        _native.sync_file_range(fd, 0, 0, _WRITE)

    def sync(self, fd: int) -> None:
        """Have the data of a file outlive a crash if a later change of names or attributes does.

        On ext4 it is enough that the device has the data: the journal writes later changes after that, and flushes the
        device's cache before (fs/jbd2/commit.c). So nothing waits for the journal, which is most of an fsync(2). The
        pages are under writeback until their extents are recorded as written (fs/ext4/page-io.c: ext4_end_io_end).

        Raises: OSError: ENOSPC, EIO and the like.
        """
        if self.orders_data:
            _native.sync_file_range(fd, 0, 0, _WRITE_AND_WAIT)
        else:
            os.fsync(fd)

    def form(self, wanted: Form | None) -> Form:
        """Choose the form of whiteouts; `wanted` is the user's choice.

        `aufs` is used only by the user's choice: the kernel's overlayfs does not read it.
        Raises: Unfit if the file system lacks what the form needs.
        """
        if self.folds_case:
            raise Unfit(
                "its file system folds the case of names", "choose a directory that does not"
            )
        if wanted == "aufs":
            if self.aufs_names:
                return "aufs"
            raise Unfit("its file system has no files '.wh.NAME'", _ELSEWHERE)
        way_out = f"give whiteout=aufs, or {_ELSEWHERE}" if self.aufs_names else _ELSEWHERE
        if self.prefix is None:
            raise Unfit("its file system keeps no extended attributes for markers", way_out)
        if not self.rename_exchange:
            raise Unfit("its file system cannot exchange two names (RENAME_EXCHANGE)", way_out)
        if wanted == "device" and not self.whiteout_device:
            raise Unfit(
                "its file system makes no whiteout devices (mknod 0:0)", "give whiteout=xattr"
            )
        if self.whiteout_device and wanted != "xattr":
            return "device"
        if not self.whiteout_xattr:
            raise Unfit(
                "its file system makes no whiteouts, neither devices nor attributes of files",
                way_out,
            )
        return "xattr"


def probe(directory: bytes, *, user: bool) -> Disk:
    """Probe the file system of `directory`, in a directory made there. `user`: markers as `user.overlay.*`.

    Raises: OSError if files or directories cannot be made.
    """
    scratch = os.path.join(directory, b"#probe-" + os.urandom(4).hex().encode())
    os.mkdir(scratch, 0o700)
    try:
        fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _Probe(scratch, fd).run(user=user)
        finally:
            os.close(fd)
    finally:
        for name in os.listdir(scratch):
            with suppress(OSError):
                os.unlink(os.path.join(scratch, name))
        os.rmdir(scratch)


class _Probe:
    def __init__(self, path: bytes, fd: int) -> None:
        self._path = path
        self._fd = fd

    def run(self, *, user: bool) -> Disk:
        prefix = next(
            (one for one in self._prefixes(user=user) if self._keeps(self._path, one + b"probe")),
            None,
        )
        self._make(b"a")
        self._make(b"b")
        file = os.path.join(self._path, b"a")
        whiteout_device = self._does(self._make_device)
        return Disk(
            prefix=prefix,
            whiteout_device=whiteout_device,
            whiteout_xattr=prefix is not None and self._keeps(file, prefix + b"whiteout"),
            aufs_names=self._does(self._make_aufs_name),
            rename_exchange=self._does(self._exchange),
            rename_whiteout=whiteout_device and self._does(self._leave_whiteout),
            hard_links=self._does(self._link),
            file_kinds=self._does(self._list_kinds),
            file_handles=self._does(self._take_handle),
            folds_case=attributes.stat_or_none(self._fd, b"A") is not None,
            stat_after_unlink=self._does(self._stat_unlinked),
            orders_data=self._does(self._order_data),
            is_memory=attributes.file_system_of(self._fd) in _OF_MEMORY,
        )

    @staticmethod
    def _prefixes(*, user: bool) -> tuple[bytes, ...]:
        if user:
            return (USER_PREFIX,)
        return (TRUSTED_PREFIX, USER_PREFIX)

    @staticmethod
    def _does(attempt: Callable[[], bool]) -> bool:
        """Whether an attempt has its effect: a call may succeed and do nothing, or something else."""
        try:
            return attempt()
        except OSError:
            return False

    @staticmethod
    def _keeps(path: bytes, name: bytes) -> bool:
        try:
            os.setxattr(path, name, b"y")
            return os.getxattr(path, name) == b"y"
        except OSError as error:
            if error.errno not in (*_NO_ATTRIBUTES, errno.ENODATA):
                raise
            return False

    def _make(self, name: bytes) -> None:
        os.close(os.open(name, NEW_FILE, 0o600, dir_fd=self._fd))

    def _inode(self, name: bytes) -> int:
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_ino

    def _is_whiteout(self, name: bytes) -> bool:
        st = attributes.stat_or_none(self._fd, name)
        return st is not None and is_whiteout_device(st)

    def _make_device(self) -> bool:
        os.mknod(b"w", stat.S_IFCHR, WHITEOUT_DEVICE, dir_fd=self._fd)
        return self._is_whiteout(b"w")

    def _make_aufs_name(self) -> bool:
        name = AUFS_WHITEOUT + b"a"
        self._make(name)
        return self._inode(name) != 0 and self._inode(b"a") != 0

    def _exchange(self) -> bool:
        before = self._inode(b"a"), self._inode(b"b")
        _native.renameat2(self._fd, b"a", self._fd, b"b", _native.RENAME_EXCHANGE)
        return (self._inode(b"b"), self._inode(b"a")) == before

    def _leave_whiteout(self) -> bool:
        self._make(b"m")
        _native.renameat2(self._fd, b"m", self._fd, b"n", _native.RENAME_WHITEOUT)
        return self._is_whiteout(b"m")

    def _link(self) -> bool:
        os.link(b"a", b"l", src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False)
        return self._inode(b"a") == self._inode(b"l")

    def _list_kinds(self) -> bool:
        return all(kind for _, kind, _ in attributes.entries(self._fd, 4096))

    def _take_handle(self) -> bool:
        handles.of_name(self._fd, b"a")
        return True

    def _order_data(self) -> bool:
        """Whether it is ext4 with a journal of its own, in its default mode."""
        if attributes.file_system_of(self._fd) != _EXT4:
            return False
        device = os.fstat(self._fd).st_dev
        path = os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
        name = os.path.basename(path)
        with open(f"/proc/fs/ext4/{name}/options", encoding="ascii") as file:
            options = file.read().split()
        has_own = os.path.isdir(f"/proc/fs/jbd2/{name}-8")
        return has_own and {"data=ordered", "barrier"} <= {*options}

    def _stat_unlinked(self) -> bool:
        held = os.open(b"b", INODE, dir_fd=self._fd)
        try:
            os.unlink(b"b", dir_fd=self._fd)
            os.fstat(held)
        finally:
            os.close(held)
        return True
