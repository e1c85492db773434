"""Notices to the kernel that names and attributes may be others than it has cached.

A name is asked for again at its next use, and stays what it is where the answer is the same: what is mounted on a
directory, or has it as its working directory, notices nothing. (FUSE_NOTIFY_INC_EPOCH, which is one notice for all
names, would detach such mounts: fs/fuse/dir.c, fuse_dentry_revalidate; fs/dcache.c, d_invalidate.)

For the notice of a name the kernel takes the lock of its directory, which a program may hold that waits for a reply: so
another thread than that which replies sends it.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from overlaykit import _native

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEADER: Final = struct.Struct("=IiQ")
"""struct fuse_out_header."""
_ENTRY: Final = struct.Struct("=QII")
"""struct fuse_notify_inval_entry_out: directory, length of the name, flags."""
_INODE: Final = struct.Struct("=Qqq")
"""struct fuse_notify_inval_inode_out: inode, offset, length; a negative offset: its attributes only."""
_EXPIRE_ONLY: Final = 1
"""FUSE_EXPIRE_ONLY. Linux 6.2; before, the name is dropped."""
_UNKNOWN: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV)
"""The kernel has not cached it."""


def expire(device: int, names: Iterable[tuple[int, Iterable[bytes]]]) -> None:
    """Have the kernel ask again for names in directories, and for what these are and list. Raises: OSError."""
    for nodeid, some in names:
        _send(device, _native.FUSE_NOTIFY_INVAL_INODE, _INODE.pack(nodeid, 0, 0))
        for name in some:
            head = _ENTRY.pack(nodeid, len(name), _EXPIRE_ONLY)
            _send(device, _native.FUSE_NOTIFY_INVAL_ENTRY, head + name + b"\0")


def _send(device: int, code: int, body: bytes) -> None:
    try:
        os.write(device, _HEADER.pack(_HEADER.size + len(body), code, 0) + body)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
