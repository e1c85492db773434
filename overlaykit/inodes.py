"""The copy of an inode: data, owner, extended attributes with access control lists, mode, times."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from overlaykit import _native, attributes
from overlaykit.privilege import ALL_IDS, CAP_SYS_ADMIN, capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, TypeAlias

_Place: TypeAlias = "int | str"
"""An inode's descriptor, or the path of one that is O_PATH, which calls on descriptors refuse."""

FICLONE: Final = 0x40049409
"""linux/fs.h"""

_CHUNK: Final = 8 << 20
"""Bytes that the kernel copies in one call, in which no signal handler runs."""

_BUFFER: Final = 1 << 20

_UNSUPPORTED: Final = frozenset(
    (
        errno.EACCES,
        errno.EBADF,
        errno.EINTR,
        errno.EINVAL,
        errno.EIO,
        errno.ENOSYS,
        errno.ENOTTY,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.ETXTBSY,
        errno.EXDEV,
    )
)
"""The kernel cannot clone or copy between these two files.

Some are ambiguous: EIO comes from a bad sector, and from CIFS and NFS servers that cannot copy; EPERM and EACCES come
from seccomp filters and LSMs. This is harmless, as a real fault fails the next method too.
"""

_NO_HOLES_KNOWN: Final = frozenset((errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS))

_INITIAL_USER_NAMESPACE: Final = 0xEFFFFFFD
"""Its inode number: include/linux/proc_ns.h of the kernel, and USER_NS_INIT_INO in linux/nsfs.h."""

_ACLS: Final = ("system.posix_acl_access", "system.posix_acl_default")
_ACL_HEADER_BYTES: Final = 4
_ACL_ENTRY: Final = struct.Struct("<HHI")
_ACL_USER: Final = 0x02
_ACL_GROUP_OBJ: Final = 0x04
_ACL_GROUP: Final = 0x08


def copy(
    src: int,
    dst: int,
    *,
    data: bool = True,
    metadata: bool = True,
    uid: int = -1,
    gid: int = -1,
    skip_xattrs: tuple[bytes, ...] = (),
    keep_xattrs: tuple[bytes, ...] = (),
) -> str:
    """Copy the inode `src` to the empty inode `dst`.

    Data, of regular files, unless `data` is false: by FICLONE, else copy_file_range(2), else read and write. Each
    method continues where the one before failed. Holes stay holes (SEEK_DATA, SEEK_HOLE). The length is exact, also
    where stat(2) has none (procfs).

    Metadata, unless `metadata` is false: the owner (`uid`, `gid`; -1: the source's), the xattrs with ACLs and file
    capabilities, the mode (not of a symlink), and the times of access and change to the nanosecond. A name that
    begins with one of `skip_xattrs` is left out, unless it begins with one of `keep_xattrs`.

    As in the kernel's overlayfs, the copy lacks an xattr that its file system does not support, unless that is an ACL
    or security.*: then EOPNOTSUPP. Without CAP_SYS_ADMIN over the initial user namespace, the copy also lacks
    security.* and trusted.* that the kernel withholds (EPERM, and EOVERFLOW for file capabilities of another user
    namespace), and ACLs with an id outside the user namespace (EINVAL). If that is the access ACL, the mode loses
    bits, so that no user has more access to the copy than to the source.

    Requires: `dst` has no data, xattrs or ACLs, is not open for appending, and its mode lets it be written. Where no
    data is copied, either descriptor may be O_PATH (this needs /proc).
    Ensures: nothing about the offsets of the two; after a failure, nothing about `dst`.
    Returns: the last method that the data needed: "clone", "copy_file_range", "read_write"; "none" without data.
    Raises: OSError: ENOSPC, EDQUOT, EIO and others of the kernel. OverflowError: for an owner that is no id.
    """
    if not all(-1 <= number < ALL_IDS for number in (uid, gid)):
        raise OverflowError("not a user or group id")
    source = os.fstat(src)  # before reading changes the atime
    method = "none"
    if data and stat.S_ISREG(source.st_mode):
        method = _copy_data(src, dst, source.st_size)
    if metadata:
        owner = (source.st_uid if uid == -1 else uid, source.st_gid if gid == -1 else gid)
        _copy_metadata(src, dst, source, owner, skip_xattrs, keep_xattrs)
    return method


# ---- data -------------------------------------------------------------------------------------


def _copy_data(src: int, dst: int, size: int) -> str:
    transfer = _Transfer(src, dst)
    if size == 0:  # empty, or without a length in stat(2), as in procfs
        transfer.reads = True
        length = transfer.copy_bytes(0, 1 << 62)
    elif _clone(src, dst):
        return "clone"
    else:
        length = transfer.copy_runs(size)
    os.ftruncate(dst, length)
    return transfer.method


def _clone(src: int, dst: int) -> bool:
    try:
        fcntl.ioctl(dst, FICLONE, src)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


class _Transfer:
    """A copy in the kernel; where that does not support the two files, by reading and writing from there on."""

    def __init__(self, src: int, dst: int) -> None:
        self._src = src
        self._dst = dst
        self._buffer: memoryview | None = None
        self.reads = False
        self.method = "none"

    def copy_runs(self, size: int) -> int:
        """Copy the runs of data in the first `size` bytes. Returns the length of the copy."""
        for start, stop in _runs(self._src, size):
            reached = self.copy_bytes(start, stop)
            if reached < stop:
                return reached
        return size

    def copy_bytes(self, offset: int, end: int) -> int:
        """Copy the bytes from `offset` to `end`. Returns the offset reached: less where the source ends earlier."""
        while offset < end:
            count = 0
            if not self.reads:
                count = self._copy_in_kernel(offset, end - offset)
                # 0 may also mean the end of the source, or a file without a true length (procfs before Linux 5.19): a
                # read decides.
                self.reads = count == 0
            if self.reads:
                count = self._read_and_write(offset, end - offset)
            if count == 0:
                break
            offset += count
        return offset

    def _copy_in_kernel(self, offset: int, length: int) -> int:
        """Copy at most a chunk. Returns the number of bytes, 0 where it is unsupported."""
        try:
            count = os.copy_file_range(self._src, self._dst, min(length, _CHUNK), offset, offset)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            return 0
        if count:
            self.method = "copy_file_range"
        return count

    def _read_and_write(self, offset: int, length: int) -> int:
        """Copy at most a buffer. Returns the number of bytes, 0 at the end of the source."""
        if self._buffer is None:
            self._buffer = memoryview(bytearray(_BUFFER))
        count = os.preadv(self._src, [self._buffer[:length]], offset)
        written = 0
        while written < count:
            written += os.pwrite(self._dst, self._buffer[written:count], offset + written)
        if count:
            self.method = "read_write"
        return count


def _runs(src: int, size: int) -> Iterator[tuple[int, int]]:
    """The runs of data in the first `size` bytes; one for all where holes are not known."""
    stop = 0
    while stop < size:
        try:
            start = os.lseek(src, stop, os.SEEK_DATA)
            if start >= size:  # the file grew
                return
            stop = min(os.lseek(src, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            if error.errno not in _NO_HOLES_KNOWN:
                raise
            start, stop = stop, size
        yield start, stop


# ---- metadata ---------------------------------------------------------------------------------


def _copy_metadata(
    src: int,
    dst: int,
    source: os.stat_result,
    owner: tuple[int, int],
    skip: tuple[bytes, ...],
    keep: tuple[bytes, ...],
) -> None:
    """Copy the metadata in the order that preserves them all.

    chown(2) drops capabilities and the set-user-ID bit, so it comes first. An ACL changes the mode, and the mode
    changes the ACL's mask; the source's agree, so the copy's agree once both are set. Times come last, since the other
    steps change them.
    """
    to = _place(dst)
    os.chown(to, *owner)
    mode = _copy_xattrs(_place(src), to, stat.S_IMODE(source.st_mode), skip, keep)
    if not stat.S_ISLNK(source.st_mode):  # a symlink has no mode
        os.chmod(to, mode)
    attributes.set_times(dst, b"", source.st_atime_ns, source.st_mtime_ns, _native.AT_EMPTY_PATH)


def _place(fd: int) -> _Place:
    return f"/proc/self/fd/{fd}" if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH else fd


def _copy_xattrs(
    src: _Place, dst: _Place, mode: int, skip: tuple[bytes, ...], keep: tuple[bytes, ...]
) -> int:
    """Copy the extended attributes. Returns the mode, which loses bits if the copy lacks the access ACL."""
    try:
        names = os.listxattr(src)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return mode
    for name in names:
        encoded = os.fsencode(name)
        if encoded.startswith(skip) and not encoded.startswith(keep):
            continue
        try:
            value = os.getxattr(src, name)
        except OSError as error:
            # Removed after it was listed, or listed to a user that may not read it.
            if error.errno != errno.ENODATA and not _may_be_dropped(name, error.errno):
                raise
            continue
        try:
            os.setxattr(dst, name, value)
        except OSError as error:
            if not _may_be_dropped(name, error.errno):
                raise
            if name == _ACLS[0]:
                mode = mode_without_acl(mode, value)
    return mode


def _may_be_dropped(name: str, number: int | None) -> bool:
    """Whether the copy may lack an xattr that could not be read or written, for this errno."""
    security = name.startswith("security.")
    if number == errno.EOPNOTSUPP:
        return not security and name not in _ACLS
    if number in (errno.EOVERFLOW, errno.EPERM):
        return (security or name.startswith("trusted.")) and not _is_privileged()
    return number == errno.EINVAL and name in _ACLS and not _is_privileged()


def _is_privileged() -> bool:
    """Whether this process has CAP_SYS_ADMIN over the initial user namespace.

    Writing trusted.* needs it, and security.* as a rule.
    """
    ours = os.stat("/proc/self/ns/user").st_ino
    return ours == _INITIAL_USER_NAMESPACE and CAP_SYS_ADMIN in capabilities()


def mode_without_acl(mode: int, acl: bytes) -> int:
    """The mode of a file that loses its access ACL, so that no user gains access.

    With an ACL, the mode's group bits are the mask, not the rights of the owning group; without it, a user or group
    named in the ACL has the rights of the group or of others. Layout: linux/posix_acl_xattr.h.
    """
    mask = group = mode >> 3 & 7
    other = mode & 7
    for tag, granted, _ in _ACL_ENTRY.iter_unpack(acl[_ACL_HEADER_BYTES:]):
        if tag in (_ACL_USER, _ACL_GROUP_OBJ):
            group &= granted
        if tag in (_ACL_USER, _ACL_GROUP):
            other &= granted & mask
    return mode & ~0o77 | group << 3 | other
