"""File handles: the file system's identifier of an inode (name_to_handle_at(2), open_by_handle_at(2))."""

from __future__ import annotations

import struct
import sys

from overlaykit import _native
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike
    from typing import Final

_HEADER: Final = struct.Struct("=Ii")
"""Of struct file_handle: the number of bytes that follow, and the type."""
_MOST_BYTES: Final = 128
"""MAX_HANDLE_SZ."""
_ROOM: Final = _HEADER.pack(_MOST_BYTES, 0).ljust(256, b"\0")


class FileHandle(Record):
    type: int
    handle: bytes
    mount_id: int
    """The mount of the path."""


def of_name(dirfd: int, path: str | bytes | PathLike[str], flags: int = 0) -> FileHandle:
    """The handle of an inode. Raises: OSError (EOPNOTSUPP without support)."""
    return FileHandle(*fields_of(dirfd, path, flags))


def fields_of(
    dirfd: int, path: str | bytes | PathLike[str], flags: int = 0
) -> tuple[int, bytes, int]:
    """As `of_name`: the fields alone, which take less time."""
    buffer, mount = bytearray(_ROOM), bytearray(256)
    _native.name_to_handle_at(dirfd, path, buffer, mount, flags)
    length, kind = _HEADER.unpack_from(buffer)
    handle = bytes(buffer[_HEADER.size : _HEADER.size + length])
    return kind, handle, int.from_bytes(mount[:4], sys.byteorder, signed=True)


def opened(mount_fd: int, kind: int, handle: bytes, flags: int) -> int:
    """A descriptor of the inode of a handle. Raises: OSError (ESTALE if it is gone)."""
    buffer = bytearray(_HEADER.pack(len(handle), kind) + handle)
    return _native.open_by_handle_at(mount_fd, buffer.ljust(256, b"\0"), flags)
