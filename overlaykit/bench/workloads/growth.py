"""Costs by the number of lowers, and by the number of names in a directory."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from typing import Final

from overlaykit.bench.workload import Point, Unfit, scaled
from overlaykit.bench.workloads import material
from overlaykit.bench.workloads.files import FileWorkload

DEPTHS: Final = (1, 10, 100)
WIDTHS: Final = (100, 1_000, 10_000, 100_000, 1_000_000)

_MUCH: Final = 100_000
"""From this width on, making and copying the directory takes longer than the workload."""


class Deep(FileWorkload):
    """One directory whose names are spread over many lowers."""

    def __init__(self, act: str, what: str, lowers: int, scale: float) -> None:
        self.lowers = lowers
        self.operations = scaled(1_000, scale, least=100)
        self.name = f"depth/{act} {lowers}"
        self.what = f"{what} {self.operations:,} files spread over {lowers} lower{'s' if lowers > 1 else ''}"
        self.point = Point(series=f"{act} by depth", axis="lowers", size=lowers)
        self._names = [f"directory/file-{number}" for number in range(self.operations)]

    def make(self, lowers: Sequence[str]) -> None:
        for number, lower in enumerate(lowers):
            material.write(lower, self._names[number :: len(lowers)], 0)


class DeepStat(Deep):
    def __init__(self, lowers: int, scale: float) -> None:
        super().__init__("stat", "stat for the first time each of", lowers, scale)

    def run(self, root: str) -> None:
        for name in self._names:
            os.stat(f"{root}/{name}")


class DeepList(Deep):
    def __init__(self, lowers: int, scale: float) -> None:
        super().__init__("list", "list for the first time the directory of", lowers, scale)

    def run(self, root: str) -> None:
        _list(f"{root}/directory", self.operations)


class Wide(FileWorkload):
    """One directory of many names in one lower."""

    def __init__(self, act: str, width: int) -> None:
        self.width = width
        self.name = f"width/{act} {width}"
        self.point = Point(series=f"{act} by width", axis="names in the directory", size=width)
        if width >= _MUCH:
            self.most_rounds = 3 if width == _MUCH else 1

    def make(self, lowers: Sequence[str]) -> None:
        for number in range(self.width):
            os.close(os.open(f"{lowers[0]}/{number}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))


class WideList(Wide):
    def __init__(self, width: int) -> None:
        super().__init__("list", width)
        self.operations = width
        self.what = f"list for the first time a directory of {width:,} names"

    def run(self, root: str) -> None:
        _list(root, self.width)


class WideStat(Wide):
    operations = 100

    def __init__(self, width: int) -> None:
        super().__init__("stat", width)
        self.what = f"stat for the first time {self.operations} of {width:,} names of a directory"
        self._chosen = random.Random(width).sample(range(width), self.operations)

    def run(self, root: str) -> None:
        for number in self._chosen:
            os.stat(f"{root}/{number}")


class WideCreate(Wide):
    operations = 100
    written_to = True

    def __init__(self, width: int) -> None:
        super().__init__("create", width)
        self.what = f"create {self.operations} files in a directory of {width:,} names"

    def run(self, root: str) -> None:
        for number in range(self.operations):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(f"{root}/new-{number}", flags))


def _list(path: str, expected: int) -> None:
    seen = len(os.listdir(path))
    if seen != expected:
        raise Unfit(f"lists {seen:,} of {expected:,} names")


def workloads(scale: float) -> Iterator[FileWorkload]:
    """All workloads of this module, from small to large, as far as the scale permits."""
    depths = [depth for depth in DEPTHS if depth <= scaled(1_000, scale)]
    widths = [width for width in WIDTHS if width <= scaled(WIDTHS[-1], scale)]
    for deep in (DeepStat, DeepList):
        yield from (deep(depth, scale) for depth in depths)
    for wide in (WideStat, WideList, WideCreate):
        yield from (wide(width) for width in widths)
