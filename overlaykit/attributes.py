"""What `os` does not give or set of inodes, by calls whose structs are packed and unpacked here."""

from __future__ import annotations

import errno
import os
import struct

from overlaykit import _native
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike
    from typing import Final, TypeAlias

    _Path: TypeAlias = bytes | str | PathLike[bytes] | PathLike[str]

_BUFFER_BYTES: Final = 256
_LARGEST_VALUE: Final = 1 << 16
"""XATTR_SIZE_MAX, and XATTR_LIST_MAX"""
_LACKING: Final[set[str]] = set()
"""System calls that this kernel was seen to lack: listxattrat(2) is of Linux 6.13."""
_STATX: Final = struct.Struct("=I4xQ16xQ40xqI36x8xIIQ")
"""Of struct statx (linux/stat.h): mask, attributes, ino, btime, the device's major and minor number, mnt_id."""
_DIRENT: Final = struct.Struct("=Q8xHB")
"""Of struct linux_dirent64, before the name: ino, the size of the entry, and the kind."""
_F_TYPE: Final = struct.Struct("@l")
"""The first member of struct statfs."""
_TIMES: Final = struct.Struct("@llll")
"""Two of struct timespec."""
_OMIT: Final = (0, (1 << 30) - 2)
"""UTIME_OMIT"""
_NS_PER_S: Final = 10**9


class Statx(Record):
    mask: int
    """The bits of the fields that are valid."""
    attributes: int
    """Bits STATX_ATTR_*."""
    ino: int
    btime_ns: int
    """Creation, nanoseconds since the epoch."""
    dev: int
    mnt_id: int


def statx(dirfd: int, path: _Path, flags: int, mask: int) -> Statx:
    """statx(2): what os.stat lacks. Raises: OSError."""
    buffer = bytearray(_BUFFER_BYTES)
    _native.statx(dirfd, path, flags, mask, buffer)
    valid, bits, ino, born, born_ns, major, minor, mount = _STATX.unpack_from(buffer)
    return Statx(valid, bits, ino, born * _NS_PER_S + born_ns, os.makedev(major, minor), mount)


def entries(fd: int, size: int) -> list[tuple[bytes, int, int]]:
    """getdents64(2): the next entries of an open directory, as many as fit into `size` bytes, without `.` and `..`.

    Returns: name, S_IFMT bits of the kind (0 where the file system has none) and inode number of each; none at the end.
    Raises: OSError: EINVAL if `size` is too small for a name, EBADF for an O_PATH descriptor.
    """
    buffer = bytearray(size)
    found: list[tuple[bytes, int, int]] = []
    # Both may be all that was read, and an empty list means the end.
    while not found and (filled := _native.getdents64(fd, buffer)):
        read = bytes(memoryview(buffer)[:filled])
        at = 0
        while at < filled:
            ino, length, kind = _DIRENT.unpack_from(read, at)
            start = at + _DIRENT.size
            name = read[start : read.index(0, start)]
            if name not in (b".", b".."):
                found.append((name, kind << 12, ino))
            at += length
    return found


def file_system_of(fd: int) -> int:
    """The kind of a file system: f_type of fstatfs(2) (linux/magic.h), which os.fstatvfs lacks. Raises: OSError."""
    buffer = bytearray(_BUFFER_BYTES)
    _native.fstatfs(fd, buffer)
    number: int
    (number,) = _F_TYPE.unpack_from(buffer)
    return number & 0xFFFFFFFF  # signed on 32-bit machines


def set_times(
    dirfd: int, path: _Path, atime_ns: int | None, mtime_ns: int | None, flags: int = 0
) -> None:
    """utimensat(2): set times in nanoseconds since the epoch; None keeps one. Raises: OSError."""
    buffer = bytearray(_BUFFER_BYTES)
    atime = _OMIT if atime_ns is None else divmod(atime_ns, _NS_PER_S)
    mtime = _OMIT if mtime_ns is None else divmod(mtime_ns, _NS_PER_S)
    _TIMES.pack_into(buffer, 0, *atime, *mtime)
    _native.utimensat(dirfd, path, buffer, flags)


def stat_or_none(dirfd: int, name: _Path) -> os.stat_result | None:
    """os.stat of a name in a directory, symlinks not followed; None if it is missing (ENOENT)."""
    try:
        return os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def xattr_or_none(path: _Path | int, name: bytes, follow_symlinks: bool = True) -> bytes | None:
    """os.getxattr; None without the attribute (ENODATA) or without support for any (EOPNOTSUPP)."""
    # The kernel allocates a buffer of the size asked for, so ask for a small one first.
    for size in (_BUFFER_BYTES, _LARGEST_VALUE):
        value = bytearray(size)
        try:
            if isinstance(path, int):
                length = _native.fgetxattr(path, name, value)
            elif follow_symlinks:
                length = _native.getxattr(path, name, value)
            else:
                length = _native.lgetxattr(path, name, value)
        except OSError as error:
            if error.errno == errno.ERANGE and size < _LARGEST_VALUE:
                continue
            raise
        return None if length is None else bytes(value[:length])
    return None


def xattr_names_at(dirfd: int, name: bytes) -> list[bytes]:
    """listxattrat(2): the attributes of a name in a directory, symlinks not followed; none without support for any
    (EOPNOTSUPP). Raises: OSError."""
    try:
        return _xattr_names_at(dirfd, name)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def _xattr_names_at(dirfd: int, name: bytes) -> list[bytes]:
    if "listxattrat" not in _LACKING:
        for size in (_BUFFER_BYTES, _LARGEST_VALUE):
            names = bytearray(size)
            try:
                length = _native.listxattrat(dirfd, name, _native.AT_SYMLINK_NOFOLLOW, names)
            except OSError as error:
                if error.errno == errno.ERANGE and size < _LARGEST_VALUE:
                    continue
                if error.errno != errno.ENOSYS:
                    raise
                _LACKING.add("listxattrat")
                break
            return bytes(names[: length - 1]).split(b"\0") if length else []
    path = b"/proc/self/fd/%d/%s" % (dirfd, name)  # takes twice as long
    return [os.fsencode(one) for one in os.listxattr(path, follow_symlinks=False)]


def sync_file_system(fd: int) -> None:
    """syncfs(2): write the file system of `fd` to disk, which of a FUSE mount are the pages that its kernel keeps.

    Raises: OSError.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
