"""What a guest finds on the disk in a qcow2 file, read without QEMU. Source: docs/interop/qcow2.txt of QEMU."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from overlaykit.machine import disk

if TYPE_CHECKING:
    from collections.abc import Iterator

_BITS: Final = 16
_CLUSTER: Final = 1 << _BITS
_ENTRIES: Final = _CLUSTER // 8
_PLACE: Final = 0x00FFFFFFFFFFFE00
"""The bits of a table's entry that say where a cluster is."""
_COMPRESSED: Final = 1 << 62
_ZEROS: Final = 1
_TABLES: Final = 64
"""Tables in memory: each is of 512 MiB of the disk, and has 64 KiB."""


class Image:
    """The disk in an open file, which is only read. Raises: disk.BadDisk, also in every method; OSError."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.size: Final = disk.size_of(descriptor, path)
        self.path: Final = path
        self._file: Final = descriptor
        self._tables: Final[dict[int, tuple[int, ...]]] = {}
        (bits,) = struct.unpack(">I", os.pread(descriptor, 4, 20))
        self._count, self._first = struct.unpack(">IQ", os.pread(descriptor, 12, 36))
        if bits != _BITS:
            raise self._unknown()

    def read(self, at: int, size: int) -> bytes:
        """Bytes from the offset `at`; zeros behind the end."""
        parts = []
        for where, length, holds in self._parts(at, size):
            part = os.pread(self._file, length, where) if holds else b""
            parts.append(part + bytes(length - len(part)))
        return b"".join(parts)

    def data(self, at: int, size: int) -> Iterator[tuple[int, bytes]]:
        """The bytes that were written, with their distance from `at`: nothing of what was never written."""
        done = 0
        for where, length, holds in self._parts(at, size):
            part = os.pread(self._file, length, where) if holds else b""
            if part:
                yield done, part
            done += length

    def _parts(self, at: int, size: int) -> Iterator[tuple[int, int, bool]]:
        while size > 0:
            inside = at % _CLUSTER
            length = min(size, _CLUSTER - inside)
            entry = self._entry(at // _CLUSTER)
            if entry & _COMPRESSED:
                raise self._unknown()
            place = entry & _PLACE
            yield place + inside, length, bool(place) and not entry & _ZEROS
            at += length
            size -= length

    def _entry(self, cluster: int) -> int:
        number, inside = divmod(cluster, _ENTRIES)
        if number >= self._count:
            return 0
        if number not in self._tables:
            while len(self._tables) >= _TABLES:
                self._tables.pop(next(iter(self._tables)))
            raw = os.pread(self._file, 8, self._first + 8 * number).ljust(8, b"\0")
            place = int.from_bytes(raw, "big") & _PLACE
            table = os.pread(self._file, _CLUSTER, place) if place else b""
            self._tables[number] = struct.unpack(f">{_ENTRIES}Q", table.ljust(_CLUSTER, b"\0"))
        return self._tables[number][inside]

    def _unknown(self) -> disk.BadDisk:
        return disk.BadDisk(
            self.path,
            "a qcow2 file with features that the disk of a machine has not; name another one",
        )
