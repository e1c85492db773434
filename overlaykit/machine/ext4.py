"""The ext4 file system on a machine's disk, read without the kernel: a guest wrote it, and may have meant it to harm.

Every number that is read is checked before it is used, and each block counts once at most. Source:
Documentation/filesystems/ext4 of Linux.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING, Final

from overlaykit.errors import Error
from overlaykit.machine import jbd2
from overlaykit.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from overlaykit.machine.qcow2 import Image

ROOT: Final = 2
"""The inode of the root."""
BLOCK: Final = 4096
"""Bytes; the disk is made with such blocks."""

_SUPER: Final = 1024
_MAGIC: Final = 0xEF53
_RECOVER, _WIDE = 0x4, 0x80
_KNOWN: Final = 0x2 | _RECOVER | 0x40 | _WIDE | 0x200 | 0x2000 | 0x4000
"""Incompatible features: types of files in directories, the journal, extents, 64 bits, flexible groups, and others that
change nothing for a reader."""
_CLUSTERS: Final = 0x200
"""A compatible feature with another size of extents."""
_EXTENTS: Final = 0x80000
"""A flag of inodes."""
_EXTENT_MAGIC: Final = 0xF30A
_DEEPEST: Final = 5
_UNWRITTEN: Final = 1 << 15
_XATTRS: Final = 0xEA020000
_PREFIXES: Final = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
_ACLS: Final = (2, 3)
_ACL_NAMES_ID: Final = (2, 8)
"""ACL_USER and ACL_GROUP (acl(5))."""


class BadFileSystem(Error):
    message = "{0}: its file system cannot be read: {1}"


class Inode(Record, kw_only=True):
    """A file. Times are nanoseconds since the epoch."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    links: int
    device: int
    """Of a device."""
    xattrs: Mapping[bytes, bytes]
    blocks: bytes
    """Where its data are."""
    flags: int


class FileSystem:
    """The file system on a disk. Raises: BadFileSystem, also in every method; disk.BadDisk, OSError."""

    def __init__(self, image: Image) -> None:
        self._image: Final = image
        self._journaled: dict[int, tuple[int, bool]] = {}
        head = image.read(_SUPER, 1024)
        magic, state_of_block = struct.unpack_from("<H", head, 56)[0], head[24]
        compatible = struct.unpack_from("<I", head, 100)[0]
        features = struct.unpack_from("<I", head, 96)[0]
        if magic != _MAGIC or state_of_block != 2:
            raise self._bad("it is no ext4 with blocks of 4096 bytes")
        if features & ~_KNOWN or compatible & _CLUSTERS:
            raise self._bad("it has features that are not known here")
        (self._count,) = struct.unpack_from("<I", head, 0)
        (self._per_group,) = struct.unpack_from("<I", head, 40)
        (self._size,) = struct.unpack_from("<H", head, 88)
        size = struct.unpack_from("<H", head, 254)[0] if features & _WIDE else 32
        self._descriptor = size
        self._blocks = image.size // BLOCK
        if not (self._per_group and 128 <= self._size <= BLOCK and 32 <= size <= BLOCK):
            raise self._bad("its head is damaged")
        self._left = self._blocks
        (journal,) = struct.unpack_from("<I", head, 224)
        if features & _RECOVER and journal:
            self._replay(journal)

    def inode(self, number: int) -> Inode:
        """A file by its number."""
        raw = self._inode(number)
        mode, uid, size, _, _, mtime, _, gid, links = struct.unpack_from("<HHIIIIIHH", raw)
        flags, blocks = struct.unpack_from("<I", raw, 32)[0], raw[40:100]
        (acl,), (high,) = struct.unpack_from("<I", raw, 104), struct.unpack_from("<I", raw, 108)
        acl_high, uid_high, gid_high = struct.unpack_from("<HHH", raw, 118)
        extra = struct.unpack_from("<H", raw, 128)[0] if len(raw) > 128 else 0
        fine = struct.unpack_from("<I", raw, 136)[0] if extra >= 12 else 0
        seconds = mtime - ((mtime & 1 << 31) << 1) + ((fine & 3) << 32)
        xattrs = self._xattrs(raw[128 + extra :], 4) if 4 <= extra <= len(raw) - 128 else {}
        if block := acl | acl_high << 32:
            xattrs |= self._xattrs(self._block(block), 32)
        if mode & 0o170000 not in _TYPES or not links:
            raise self._bad(f"inode {number} is damaged")
        return Inode(
            number=number,
            mode=mode,
            uid=uid | uid_high << 16,
            gid=gid | gid_high << 16,
            size=size | high << 32,
            mtime_ns=seconds * 10**9 + min(fine >> 2, 10**9 - 1),
            links=links,
            device=_device(blocks) if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0,
            xattrs=xattrs,
            blocks=blocks,
            flags=flags,
        )

    def entries(self, directory: Inode) -> Iterator[tuple[bytes, int]]:
        """The names in a directory, without `.` and `..`, and the inodes of the files."""
        if not stat.S_ISDIR(directory.mode):
            raise self._bad(f"inode {directory.number} is no directory")
        seen: set[bytes] = set()
        for _, first, count in self._extents(directory):
            for block in range(first, first + count):
                yield from self._names(self._block(block), seen)

    def data(self, file: Inode) -> Iterator[tuple[int, bytes]]:
        """The contents of a file that were written, with their places in it."""
        for at, first, count in self._extents(file):
            start, size = at * BLOCK, count * BLOCK
            size = min(size, max(0, file.size - start))
            if self._journaled and any(
                one in self._journaled for one in range(first, first + count)
            ):
                for number in range(-(-size // BLOCK)):
                    content = self._block(first + number)
                    yield start + number * BLOCK, content[: size - number * BLOCK]
                continue
            for inside, content in self._image.data(first * BLOCK, size):
                yield start + inside, content

    def target(self, link: Inode) -> bytes:
        """Where a symbolic link leads."""
        if not 0 < link.size < BLOCK:
            raise self._bad(f"inode {link.number} is damaged")
        if not link.flags & _EXTENTS:
            return link.blocks[: link.size].partition(b"\0")[0]
        content = bytearray(link.size)
        for at, part in self.data(link):
            content[at : at + len(part)] = part
        return bytes(content).partition(b"\0")[0]

    def _bad(self, reason: str) -> BadFileSystem:
        return BadFileSystem(self._image.path, reason)

    def _block(self, number: int) -> bytes:
        if not 0 < number < self._blocks:
            raise self._bad(f"there is no block {number}")
        found = self._journaled.get(number)
        if found is None:
            return self._image.read(number * BLOCK, BLOCK)
        place, escaped = found
        return jbd2.unescaped(self._image.read(place * BLOCK, BLOCK), escaped=escaped)

    def _inode(self, number: int) -> bytes:
        if not 0 < number <= self._count:
            raise self._bad(f"there is no inode {number}")
        group, inside = divmod(number - 1, self._per_group)
        # The table of groups follows the first block.
        block, at = divmod(group * self._descriptor, BLOCK)
        described = self._block(1 + block)[at : at + self._descriptor]
        if len(described) < self._descriptor:
            raise self._bad("its groups are damaged")
        (table,) = struct.unpack_from("<I", described, 8)
        if self._descriptor >= 64:
            table |= struct.unpack_from("<I", described, 40)[0] << 32
        block, at = divmod(inside * self._size, BLOCK)
        raw = self._block(table + block)[at : at + self._size]
        if len(raw) < self._size:
            raise self._bad("its inodes are damaged")
        return raw

    def _extents(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        """Where the data are: the first block in the file, the first on the disk, and how many."""
        if inode.flags & _EXTENTS:
            yield from self._below(inode.blocks, _DEEPEST)
        elif any(inode.blocks):
            raise self._bad(f"inode {inode.number} has no extents")

    def _below(self, node: bytes, most: int) -> Iterator[tuple[int, int, int]]:
        magic, count, _, depth = struct.unpack_from("<HHHH", node)
        if magic != _EXTENT_MAGIC or depth > most or 12 + 12 * count > len(node):
            raise self._bad("its extents are damaged")
        for at in range(12, 12 + 12 * count, 12):
            if depth:
                _, low, high = struct.unpack_from("<IIH", node, at)
                self._take(1)
                yield from self._below(self._block(low | high << 32), depth - 1)
                continue
            block, length, high, low = struct.unpack_from("<IHHI", node, at)
            first = low | high << 32
            if length > _UNWRITTEN:
                continue
            if not 0 < first <= first + length <= self._blocks:
                raise self._bad("its extents are damaged")
            self._take(length)
            yield block, first, length

    def _take(self, count: int) -> None:
        """Count blocks: files that share some would be larger than the disk."""
        self._left -= count
        if self._left < 0:
            raise self._bad("files share blocks")

    def _names(self, block: bytes, seen: set[bytes]) -> Iterator[tuple[bytes, int]]:
        at = 0
        while at + 8 <= len(block):
            number, length, size = struct.unpack_from("<IHB", block, at)
            if length < 8 + size or at + length > len(block):
                raise self._bad("a directory is damaged")
            name = block[at + 8 : at + 8 + size]
            at += length
            if number == 0 or name in (b".", b".."):
                continue
            if not name or b"/" in name or b"\0" in name or name in seen:
                raise self._bad("a directory has a name that cannot be")
            seen.add(name)
            yield name, number

    def _xattrs(self, area: bytes, start: int) -> dict[bytes, bytes]:
        """Those in an inode or in a block, whose entries begin at `start`."""
        found: dict[bytes, bytes] = {}
        if len(area) < start or int.from_bytes(area[:4], "little") != _XATTRS:
            return found
        values = area[start:] if start == 4 else area
        at = start
        while at + 16 <= len(area) and area[at : at + 4] != b"\0\0\0\0":
            size, kind, place, elsewhere, length = struct.unpack_from("<BBHII", area, at)
            name = area[at + 16 : at + 16 + size]
            value = values[place : place + length]
            at += -(-(16 + size) // 4) * 4
            if elsewhere or len(name) < size or len(value) < length or b"\0" in name:
                raise self._bad("an extended attribute is damaged")
            if kind in _PREFIXES:
                found[_PREFIXES[kind] + name] = self._acl(value) if kind in _ACLS else value
        return found

    def _acl(self, value: bytes) -> bytes:
        """An ACL as an extended attribute has it, of what ext4 holds."""
        parts = [struct.pack("<I", 2)]
        at = 4
        try:
            while at < len(value):
                tag, allowed = struct.unpack_from("<HH", value, at)
                at += 4
                owner = 0xFFFFFFFF
                if tag in _ACL_NAMES_ID:
                    (owner,) = struct.unpack_from("<I", value, at)
                    at += 4
                parts.append(struct.pack("<HHI", tag, allowed, owner))
        except struct.error:
            raise self._bad("an ACL is damaged") from None
        return b"".join(parts)

    def _replay(self, number: int) -> None:
        journal = self.inode(number)
        places: dict[int, int] = {}
        for at, first, count in self._extents(journal):
            places.update(zip(range(at, at + count), range(first, first + count), strict=True))
        try:
            found = jbd2.overlaid(lambda at: self._block(places.get(at, 0)), len(places))
            self._journaled = {
                target: (places[place], escaped) for target, (place, escaped) in found.items()
            }
        except (jbd2.Unknown, struct.error, KeyError):
            raise self._bad("its journal is damaged") from None


_TYPES: Final = frozenset(
    (
        *(stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO),
        *(stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK),
    )
)


def _device(blocks: bytes) -> int:
    """The number in an inode: of 16 bits, or behind it of 32."""
    short, long = struct.unpack_from("<II", blocks)
    if short:
        return os.makedev(short >> 8 & 0xFF, short & 0xFF)
    return os.makedev((long & 0xFFF00) >> 8, long & 0xFF | long >> 12 & 0xFFF00)
