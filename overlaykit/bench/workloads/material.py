"""The files of the workloads: the same in every run."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import Final

SMALL: Final = 4096
"""Bytes of a small file."""

_FILES_IN_A_DIRECTORY: Final = 100
_CHUNK: Final = 1 << 20


def spread(count: int) -> list[str]:
    """The names of `count` files, a hundred in each directory, in a tree two levels deep."""
    return [
        f"{n // _FILES_IN_A_DIRECTORY // 10}/{n // _FILES_IN_A_DIRECTORY % 10}/file-{n}"
        for n in range(count)
    ]


def directories(names: Iterable[str]) -> list[str]:
    """The directories above the names, parents first, without the root."""
    found: set[str] = set()
    for name in names:
        while (name := os.path.dirname(name)) not in found and name:
            found.add(name)
    return sorted(found)


def write(root: str, names: Iterable[str], size: int = SMALL) -> None:
    """Write files of `size` random bytes, and make their directories."""
    names = list(names)
    contents = random.Random(size).randbytes(size)
    for directory in directories(names):
        os.makedirs(os.path.join(root, directory), exist_ok=True)
    for name in names:
        with open(os.path.join(root, name), "wb") as file:
            file.write(contents)


def write_one(path: str, size: int) -> None:
    """Write a file of `size` random bytes without holes."""
    chunk = random.Random(size).randbytes(_CHUNK)
    with open(path, "wb") as file:
        for start in range(0, size, _CHUNK):
            file.write(chunk[: size - start])
