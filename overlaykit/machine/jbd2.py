"""The journal of an ext4 file system: what it holds that is not yet in its place.

Nothing is written: a reader takes those blocks from the journal. Source: Documentation/filesystems/ext4/journal.rst.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_MAGIC: Final = 0xC03B3998
_DESCRIPTOR, _COMMIT, _REVOKED = 1, 2, 5
_WIDE: Final = 0x2
_CHECKED: Final = 0x8 | 0x10
_CHECKED_3: Final = 0x10
_REVOKES: Final = 0x1
_KNOWN: Final = _REVOKES | _WIDE | 0x4 | _CHECKED
"""Incompatible features; 0x4: commits are not waited for."""
_ESCAPED, _SAME_UUID, _LAST = 1, 2, 8
"""Flags of a tag."""


class Unknown(ValueError):
    """A journal with features that are not known."""


def overlaid(block_of: Callable[[int], bytes], count: int) -> dict[int, tuple[int, bool]]:
    """The blocks of the file system of which the journal has a newer content.

    Each leads to the block of the journal that has it, and whether that begins with zeros in place of `_MAGIC`.
    `block_of`: the content of one of the journal's `count` blocks.
    Raises: Unknown; struct.error for a damaged one.
    """
    head = block_of(0)
    magic, _, _, _, size, first, sequence, start = struct.unpack_from(">IIIIIIII", head)
    (features,) = struct.unpack_from(">I", head, 40)
    if magic != _MAGIC or features & ~_KNOWN or not 0 < first < size <= count:
        raise Unknown(f"features {features:#x}")
    if start == 0:
        return {}
    written: list[tuple[int, int, int, bool]] = []
    revoked: dict[int, int] = {}
    pending: list[tuple[int, int, int, bool]] = []
    pending_revoked: list[int] = []
    at = start
    for _ in range(size):
        block = block_of(at)
        magic, kind, number = struct.unpack_from(">III", block)
        if magic != _MAGIC or number != sequence:
            break
        at = _after(at, first, size)
        if kind == _DESCRIPTOR:
            for target, escaped in _tags(block, features):
                pending.append((target, at, sequence, escaped))
                at = _after(at, first, size)
        elif kind == _REVOKED:
            pending_revoked += _revoked(block, features)
        elif kind == _COMMIT:
            written += pending
            revoked.update(dict.fromkeys(pending_revoked, sequence))
            pending, pending_revoked = [], []
            sequence = sequence + 1 & 0xFFFFFFFF
        else:
            break
    return {
        target: (place, escaped)
        for target, place, number, escaped in written
        if number > revoked.get(target, -1)
    }


def _after(at: int, first: int, size: int) -> int:
    return at + 1 if at + 1 < size else first


def _tags(block: bytes, features: int) -> list[tuple[int, bool]]:
    found = []
    at, end = 12, len(block) - (4 if features & _CHECKED else 0)
    length = 12 if features & _WIDE else 8
    if features & _CHECKED_3:
        length = 16
    elif features & _CHECKED:
        length += 2
    while at + length <= end:
        if features & _CHECKED_3:
            target, flags, high = struct.unpack_from(">III", block, at)
        else:
            target, flags = struct.unpack_from(">IxxH", block, at)
            high = struct.unpack_from(">I", block, at + 8)[0] if features & _WIDE else 0
        found.append((target | (high << 32 if features & _WIDE else 0), bool(flags & _ESCAPED)))
        at += length if flags & _SAME_UUID else length + 16
        if flags & _LAST:
            break
    return found


def _revoked(block: bytes, features: int) -> list[int]:
    (used,) = struct.unpack_from(">I", block, 12)
    form = ">Q" if features & _WIDE else ">I"
    step = struct.calcsize(form)
    end = min(used, len(block)) - step + 1
    return [struct.unpack_from(form, block, at)[0] for at in range(16, end, step)]


def unescaped(content: bytes, *, escaped: bool) -> bytes:
    """The content of a block that the journal holds."""
    return struct.pack(">I", _MAGIC) + content[4:] if escaped else content
