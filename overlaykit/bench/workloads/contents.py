"""Read, create, unlink, rename and copy up small files, and copy up a big one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Literal

from overlaykit.bench.workload import scaled
from overlaykit.bench.workloads import material
from overlaykit.bench.workloads.files import FileWorkload, State, Visit

Where = Literal["upper", "lower"]
"""Where the files are at the start: in the upper or in a lower."""

_BIG: Final = 1 << 30


class Read(Visit):
    """Open and read whole small files."""

    def __init__(self, state: State, scale: float) -> None:
        self.operations = scaled(5_000, scale)
        super().__init__("read", state, f"open and read each of {self.operations:,} files of 4 KiB")
        self._names = material.spread(self.operations)

    def make(self, lowers: Sequence[str]) -> None:
        material.write(lowers[0], self._names)

    def run(self, root: str) -> None:
        for name in self._names:
            with open(f"{root}/{name}", "rb", buffering=0) as file:
                file.read()


class Create(FileWorkload):
    """Create files in the directories of a lower."""

    name = "create/small"
    written_to = True

    def __init__(self, scale: float) -> None:
        self.operations = scaled(2_000, scale)
        self.what = f"create, write and close {self.operations:,} files of 4 KiB"
        self._names = material.spread(self.operations)
        self._contents = bytes(material.SMALL)

    def make(self, lowers: Sequence[str]) -> None:
        for directory in material.directories(self._names):
            os.makedirs(os.path.join(lowers[0], directory))

    def run(self, root: str) -> None:
        for name in self._names:
            with open(f"{root}/{name}", "xb", buffering=0) as file:
                file.write(self._contents)


class Change(FileWorkload):
    """A change of each of many small files."""

    written_to = True

    def __init__(self, what: str, where: Where, scale: float) -> None:
        self.operations = scaled(2_000, scale)
        origin = "of a layer" if where == "lower" else "made before"
        self.what = f"{what} each of {self.operations:,} files of 4 KiB {origin}"
        self._names = material.spread(self.operations)
        self._where = where

    def make(self, lowers: Sequence[str]) -> None:
        for directory in material.directories(self._names):
            os.makedirs(os.path.join(lowers[0], directory))
        if self._where == "lower":
            material.write(lowers[0], self._names)

    def prepare(self, root: str) -> None:
        if self._where == "upper":
            material.write(root, self._names)


class Unlink(Change):
    def __init__(self, where: Where, scale: float) -> None:
        super().__init__("unlink", where, scale)
        self.name = f"unlink/{where}"

    def run(self, root: str) -> None:
        for name in self._names:
            os.unlink(f"{root}/{name}")


class Rename(Change):
    def __init__(self, where: Where, scale: float) -> None:
        super().__init__("rename", where, scale)
        self.name = f"rename/{where}"

    def run(self, root: str) -> None:
        for name in self._names:
            path = f"{root}/{name}"
            os.rename(path, f"{path}.renamed")


class CopyUpSmall(Change):
    """The first write to small files of a lower."""

    name = "copy-up/small"

    def __init__(self, scale: float) -> None:
        super().__init__("write a byte to", "lower", scale)

    def run(self, root: str) -> None:
        for name in self._names:
            _write_a_byte(f"{root}/{name}")


class CopyUpBig(FileWorkload):
    """The first write, of one byte, to a big file of a lower."""

    name = "copy-up/big"
    written_to = True
    operations = 1

    def __init__(self, scale: float) -> None:
        self._size = scaled(_BIG, scale)
        self.what = f"write a byte to a file of {self._size >> 20:,} MiB of a layer"

    def make(self, lowers: Sequence[str]) -> None:
        material.write_one(f"{lowers[0]}/big", self._size)

    def run(self, root: str) -> None:
        _write_a_byte(f"{root}/big")


def _write_a_byte(path: str) -> None:
    with open(path, "r+b", buffering=0) as file:
        file.write(b"x")
