"""A program that makes random changes of a few names, the same for the same seed."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable

NAMES = tuple(
    f"d{directory}/{kind}{number}"
    for directory in range(5)
    for kind in "fn"
    for number in range(10)
)

STARTING_POINT = tuple(name for name in NAMES if "/f" in name)
"""Names for the lowers, with which about half of the operations succeed."""

_MOST_HELD = 20


def play(root: str, seed: int, operations: int) -> None:
    """Make `operations` changes below `root`, and keep files open during some. Errors are ignored."""
    chance = random.Random(seed)
    held: list[int] = []

    def path() -> str:
        return os.path.join(root, chance.choice(NAMES))

    def write() -> None:
        held.append(os.open(path(), os.O_RDWR | os.O_CREAT))
        os.write(held[-1], b"%d" % seed)

    moves: list[Callable[[], object]] = [
        write,
        write,
        lambda: held.append(os.open(path(), os.O_RDONLY)),
        lambda: os.unlink(path()),
        lambda: os.rename(path(), path()),
        lambda: os.link(path(), path()),
        lambda: os.mkdir(path()),
        lambda: os.rmdir(path()),
        lambda: os.symlink("x", path()),
        lambda: os.listdir(os.path.dirname(path())),
        lambda: os.chmod(path(), 0o600),
        lambda: os.truncate(path(), 10),
    ]
    for _ in range(operations):
        with contextlib.suppress(OSError):
            chance.choice(moves)()
        if len(held) > _MOST_HELD:
            os.close(held.pop(chance.randrange(len(held))))
    for fd in held:
        os.close(fd)
