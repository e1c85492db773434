"""How many requests there were of each kind, and how long they took."""

from __future__ import annotations

from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

LATENCIES: Final = 16
"""Classes of `Latencies`, as native/plane.c has."""

_FIRST_BOUND: Final = 1024

KINDS: Final = {
    1: "lookup",
    2: "forget",
    3: "getattr",
    4: "setattr",
    5: "readlink",
    6: "symlink",
    9: "mkdir",
    10: "unlink",
    11: "rmdir",
    12: "rename",
    14: "open",
    15: "read",
    16: "write",
    18: "release",
    20: "fsync",
    22: "getxattr",
    23: "listxattr",
    25: "flush",
    27: "opendir",
    28: "readdir",
    35: "create",
    39: "ioctl",
    42: "forget",
    44: "readdir",
    45: "rename",
    46: "lseek",
}
"""Opcodes of linux/fuse.h that the data plane answers, under the names of pyfuse3's handlers."""


class Latencies(Record):
    """`numbers`: of requests that took less than `bound` of their index. `nanoseconds`: what all of them took."""

    nanoseconds: int
    numbers: tuple[int, ...]

    @property
    def count(self) -> int:
        return sum(self.numbers)

    def below(self, share: float) -> float:
        """A bound, in nanoseconds, below which at least this share of them lies."""
        seen = 0
        for at, number in enumerate(self.numbers):
            seen += number
            if seen >= share * self.count:
                return bound(at)
        return bound(LATENCIES)


def bound(index: int) -> float:
    """The bound of a class of latencies, in nanoseconds. The last class has none."""
    return float(_FIRST_BOUND << index) if index < LATENCIES - 1 else float("inf")


class Clock:
    """Adds up latencies, by kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[int]] = {}

    def add(self, kind: str, nanoseconds: int) -> None:
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = [0] * (1 + LATENCIES)
        found[0] += nanoseconds
        found[1 + min((nanoseconds // _FIRST_BOUND).bit_length(), LATENCIES - 1)] += 1

    def latencies(self) -> dict[str, Latencies]:
        return {kind: Latencies(one[0], tuple(one[1:])) for kind, one in self._kinds.items()}


def of_opcodes(counts: Sequence[Sequence[int]]) -> dict[str, Latencies]:
    """The latencies that `_native.plane_counts` returns, by kind; those that `KINDS` does not name as "other"."""
    found: dict[str, list[int]] = {}
    for opcode, one in enumerate(counts):
        if any(one):
            kind = found.setdefault(KINDS.get(opcode, "other"), [0] * (1 + LATENCIES))
            for at, number in enumerate(one):
                kind[at] += number
    return {kind: Latencies(one[0], tuple(one[1:])) for kind, one in found.items()}
