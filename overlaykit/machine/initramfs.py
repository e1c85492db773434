"""A cpio archive in the format "newc". Source: Documentation/driver-api/early-userspace/buffer-format.rst."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator

from overlaykit.record import Record

_LAST = "TRAILER!!!"


class Entry(Record):
    """A file of the archive, owned by root."""

    path: str
    """Relative to the root of the initramfs."""
    mode: int
    """Type and permissions, as in st_mode."""
    content: bytes = b""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device."""


def file(path: str, content: bytes, permissions: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(path, stat.S_IFREG | permissions, content)


def directory(path: str) -> Entry:
    """A directory; the kernel makes no parents."""
    return Entry(path, stat.S_IFDIR | 0o755)


def console(path: str) -> Entry:
    """The character device 5:1."""
    return Entry(path, stat.S_IFCHR | 0o600, device=(5, 1))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of the entries in their order."""
    return b"".join(_parts([*entries, Entry(_LAST, 0)]))


def _parts(entries: list[Entry]) -> Iterator[bytes]:
    for inode, entry in enumerate(entries, 1):
        name = entry.path.encode() + b"\0"
        # inode, mode, uid, gid, nlink, mtime, size, device (2), device of a node (2), length of the name, checksum
        fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, *entry.device, len(name))
        header = b"070701" + b"".join(b"%08x" % field for field in (*fields, 0))
        yield _padded(header + name)
        yield _padded(entry.content)


def _padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)
