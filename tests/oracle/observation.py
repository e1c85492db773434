"""Descriptions of files and trees that can be compared between systems.

Inode numbers differ between systems, so a description says which paths share one. A time that the program set is exact;
one that the system set is "now". POSIX does not define the size or the link count of a directory.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

BY_HAND = 1_400_000_000
"""Seconds since the epoch: the system sets only later times."""


class Result(NamedTuple):
    """The result of an operation."""

    error: str | None
    """The errno's name."""
    value: object


class Description(NamedTuple):
    """The stat(2) of one file."""

    kind: int
    mode: int
    uid: int
    gid: int
    rdev: int
    size: int | None
    links: int | None
    modified: int | str


@dataclass(frozen=True)
class Found:
    """One path of a tree."""

    description: Description
    content: bytes | str | None
    """A file's bytes, a symlink's target."""
    xattrs: tuple[tuple[str, bytes], ...]
    same_as: str
    """The first path, in order, with the same inode number."""
    listed_number_is_right: bool
    """Whether readdir(3) and lstat(2) give the same inode number."""


Tree: TypeAlias = dict[str, Found]


def describe(status: os.stat_result) -> Description:
    directory = stat.S_ISDIR(status.st_mode)
    return Description(
        kind=stat.S_IFMT(status.st_mode),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        rdev=status.st_rdev,
        size=None if directory else status.st_size,
        links=None if directory else status.st_nlink,
        modified=status.st_mtime_ns if status.st_mtime < BY_HAND else "now",
    )


def look(root: str) -> Tree:
    """Every path below `root`, without following symlinks."""
    tree: Tree = {}
    first: dict[int, str] = {}
    pending = [""]
    while pending:
        directory = pending.pop(0)
        with os.scandir(os.path.join(root, directory)) as entries:
            found = sorted((entry.name, entry.inode()) for entry in entries)
        for name, listed in found:
            path = os.path.join(directory, name)
            status = os.lstat(os.path.join(root, path))
            tree[path] = Found(
                description=describe(status),
                content=_content(os.path.join(root, path), status.st_mode),
                xattrs=_xattrs(os.path.join(root, path)),
                same_as=first.setdefault(status.st_ino, path),
                listed_number_is_right=listed == status.st_ino,
            )
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)
    return tree


def _content(path: str, mode: int) -> bytes | str | None:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if not stat.S_ISREG(mode):
        return None
    with open(path, "rb") as file:
        return file.read()


def _xattrs(path: str) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
