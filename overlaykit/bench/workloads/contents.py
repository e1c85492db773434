"""Small files, and one that is not: read, made, removed, renamed, and copied up by a first write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Literal

from overlaykit.bench.workload import scaled
from overlaykit.bench.workloads import material
from overlaykit.bench.workloads.files import FileWorkload, State, Visit

Where = Literal["upper", "lower"]
"""Where the files are to begin with: new in the tree, or in a layer."""

_BIG: Final = 1 << 30


class Read(Visit):
    """Small files, each from beginning to end."""

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
    """New files in new and old directories."""

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


class Changed(FileWorkload):
    """Something done to each of many small files, which are in a layer or new."""

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


class Unlink(Changed):
    def __init__(self, where: Where, scale: float) -> None:
        super().__init__("unlink", where, scale)
        self.name = f"unlink/{where}"

    def run(self, root: str) -> None:
        for name in self._names:
            os.unlink(f"{root}/{name}")


class Rename(Changed):
    def __init__(self, where: Where, scale: float) -> None:
        super().__init__("rename", where, scale)
        self.name = f"rename/{where}"

    def run(self, root: str) -> None:
        for name in self._names:
            path = f"{root}/{name}"
            os.rename(path, f"{path}.renamed")


class CopyUpSmall(Changed):
    """The first write to a file of a layer."""

    name = "copy-up/small"

    def __init__(self, scale: float) -> None:
        super().__init__("write a byte to", "lower", scale)

    def run(self, root: str) -> None:
        for name in self._names:
            _write_a_byte(f"{root}/{name}")


class CopyUpBig(FileWorkload):
    """The first write to a file of a layer, of which nearly all stays as it is."""

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
