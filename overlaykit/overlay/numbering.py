"""Inode numbers of several devices, as nodeids of 64 bits."""

from __future__ import annotations

import mmap
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_DEVICE_SHIFT: Final = 48
INODE_LIMIT: Final = 1 << _DEVICE_SHIFT
"""Inode numbers from here on have no nodeid."""
_DEVICE: Final = struct.Struct("=Q")
FIRST_FREE: Final = 0xFFF << _DEVICE_SHIFT
"""The first nodeid that no inode has. All have at most 60 bits: requests carry flags above them (native/plane.c)."""


class Numbering:
    """Real inodes, (st_dev, st_ino), as nodeids. Inodes of the first device keep their numbers.

    Processes that this one forks later share it, one at a time: each has to `learn` what another one has added.
    """

    def __init__(self) -> None:
        self._bases: dict[int, int] = {}
        self._devices = mmap.mmap(-1, _DEVICE.size * (FIRST_FREE >> _DEVICE_SHIFT))

    def base(self, device: int) -> int:
        """The offset of a device's inode numbers below `INODE_LIMIT`; -1 if there are too many devices."""
        base = self._bases.get(device)
        if base is None:
            index = len(self._bases)
            base = index << _DEVICE_SHIFT if index < FIRST_FREE >> _DEVICE_SHIFT else -1
            if base >= 0:
                _DEVICE.pack_into(self._devices, _DEVICE.size * index, device + 1)
            self._bases[device] = base
        return base

    def learn(self) -> None:
        """Take over the devices that an earlier process has seen."""
        for (shifted,) in _DEVICE.iter_unpack(self._devices):
            if not shifted:
                break
            self.base(shifted - 1)

    def key(self, device: int, inode: int) -> int:
        """The nodeid of a real inode; 0 if it has none (its number is too large)."""
        base = self.base(device)
        return base | inode if base >= 0 and inode < INODE_LIMIT else 0
