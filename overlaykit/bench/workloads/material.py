"""The files that workloads work on: the same in every run."""

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
    """The names of that many files, a hundred in each directory, each of which has one above it."""
    return [
        f"{n // _FILES_IN_A_DIRECTORY // 10}/{n // _FILES_IN_A_DIRECTORY % 10}/file-{n}"
        for n in range(count)
    ]


def directories(names: Iterable[str]) -> list[str]:
    """Those in which the names lie, each before those below it; not the topmost."""
    found: set[str] = set()
    for name in names:
        while (name := os.path.dirname(name)) not in found and name:
            found.add(name)
    return sorted(found)


def write(root: str, names: Iterable[str], size: int = SMALL) -> None:
    """Files of `size` random bytes, with the directories on the way."""
    names = list(names)
    contents = random.Random(size).randbytes(size)
    for directory in directories(names):
        os.makedirs(os.path.join(root, directory), exist_ok=True)
    for name in names:
        with open(os.path.join(root, name), "wb") as file:
            file.write(contents)


def write_one(path: str, size: int) -> None:
    """A file of `size` bytes that no file system can make smaller."""
    chunk = random.Random(size).randbytes(_CHUNK)
    with open(path, "wb") as file:
        for start in range(0, size, _CHUNK):
            file.write(chunk[: size - start])
