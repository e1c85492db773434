"""The kernel proper inside a bzImage: an ELF file that QEMU loads without a boot loader (PVH).

What unpacks itself leaves the packed kernel in the guest's memory and in QEMU's, and is slow where the processor is
emulated. Sources: Documentation/arch/x86/boot.rst; lz4_Block_format.md and "legacy frame" of LZ4; xen/elfnote.h.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from typing import Final

_SETUP_SECTORS, _MAGIC, _PAYLOAD = 0x1F1, 0x202, 0x248
"""Offsets in a bzImage; at the last one are the offset and the length of the packed kernel."""
_SECTOR: Final = 512
_LZ4: Final = bytes.fromhex("02214c18")
_GZIP: Final = bytes.fromhex("1f8b")
_XZ: Final = bytes.fromhex("fd377a585a00")
_PT_NOTE: Final = 4
_ENTRY_NOTE: Final = struct.pack("<III4s", 4, 8, 18, b"Xen")
"""XEN_ELFNOTE_PHYS32_ENTRY: where a PVH kernel starts, in 8 bytes."""
_LONGEST_RUN: Final = 15
"""Of a token's four bits: more bytes follow."""


def extracted(image: bytes) -> bytes | None:
    """The kernel in a bzImage, uncompressed; None: packed otherwise, or without a PVH entry."""
    if image[_MAGIC : _MAGIC + 4] != b"HdrS":
        return None
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    start = ((image[_SETUP_SECTORS] or 4) + 1) * _SECTOR + offset
    packed = image[start : start + length]
    if packed.startswith(_LZ4):
        kernel = _unpacked_lz4(packed[:-4])  # the size follows
    elif packed.startswith(_GZIP):
        kernel = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(packed)
    elif packed.startswith(_XZ):
        kernel = lzma.LZMADecompressor().decompress(packed)
    else:
        return None
    return kernel if _starts_by_pvh(kernel) else None


def _starts_by_pvh(kernel: bytes) -> bool:
    if kernel[:5] != b"\x7fELF\x02":
        return False
    (headers,) = struct.unpack_from("<Q", kernel, 32)
    size, count = struct.unpack_from("<HH", kernel, 54)
    for at in range(headers, headers + size * count, size):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", kernel, at)
        if kind == _PT_NOTE and _ENTRY_NOTE in kernel[offset : offset + length]:
            return True
    return False


def _unpacked_lz4(packed: bytes) -> bytes:
    """The blocks of a legacy frame."""
    unpacked = bytearray()
    at = len(_LZ4)
    while at + 4 <= len(packed):
        end = at + 4 + int.from_bytes(packed[at : at + 4], "little")
        _unpack_block(packed, at + 4, end, unpacked)
        at = end
    return bytes(unpacked)


def _unpack_block(packed: bytes, at: int, end: int, unpacked: bytearray) -> None:
    # Each sequence: literals, then a copy of what is OFFSET before, which may overlap its own result.
    while True:
        token = packed[at]
        literals, at = _run(packed, at + 1, token >> 4)
        unpacked += packed[at : at + literals]
        at += literals
        if at >= end:
            return
        offset = packed[at] | packed[at + 1] << 8
        length, at = _run(packed, at + 2, token & 15)
        length += 4
        start = len(unpacked) - offset
        piece = unpacked[start : start + length]
        if offset < length:
            piece = (piece * (length // offset + 1))[:length]
        unpacked += piece


def _run(packed: bytes, at: int, count: int) -> tuple[int, int]:
    if count == _LONGEST_RUN:
        while packed[at] == 255:
            count += 255
            at += 1
        count += packed[at]
        at += 1
    return count, at
