"""Descriptions of files and trees that can be compared between systems.

Inode numbers differ between systems, so a description says which paths share one. A time that the program set is exact;
one that the system set is "now", unless `exact` times are asked for: those of one upper, shown twice. POSIX does not
define the size or the link count of a directory.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from ..posix.syscalls import getdents64, syncfs

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
    accessed: int | None = None
    """Of a regular file. None: not asked for."""
    changed: int | None = None
    """None: not asked for."""


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
    listed_kind_is_right: bool
    """Whether readdir(3) and lstat(2) give the same file type."""
    data: tuple[tuple[int, int], ...] | None = None
    """Where a regular file has data, from one hole to the next. None: not asked for."""


Tree: TypeAlias = dict[str, Found]


def describe(status: os.stat_result, *, exact: bool = False) -> Description:
    directory = stat.S_ISDIR(status.st_mode)
    return Description(
        kind=stat.S_IFMT(status.st_mode),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        rdev=status.st_rdev,
        size=None if directory else status.st_size,
        links=None if directory else status.st_nlink,
        modified=status.st_mtime_ns if exact or status.st_mtime < BY_HAND else "now",
        accessed=status.st_atime_ns if exact and stat.S_ISREG(status.st_mode) else None,
        changed=status.st_ctime_ns if exact else None,
    )


def look(
    root: str, *, exact: bool = False, holes: bool = False, only: Container[str] | None = None
) -> Tree:
    """Every path below `root`, without following symlinks. Changes no file's access time.

    `holes`: also where the files have holes, of a file system that tells; what has room, but no data, is a hole once it
    is synced. `only`: these paths alone; without a directory, nothing in it.
    """
    if holes:
        _sync(root)
    tree: Tree = {}
    first: dict[int, str] = {}
    pending = [""]
    while pending:
        directory = pending.pop(0)
        for name, listed, kind in _entries(os.path.join(root, directory)):
            path = os.path.join(directory, name)
            if only is not None and path not in only:
                continue
            status = os.lstat(os.path.join(root, path))
            tree[path] = Found(
                description=describe(status, exact=exact),
                content=_content(os.path.join(root, path), status.st_mode),
                xattrs=_xattrs(os.path.join(root, path)),
                same_as=first.setdefault(status.st_ino, path),
                listed_number_is_right=listed == status.st_ino,
                listed_kind_is_right=kind == stat.S_IFMT(status.st_mode) >> 12,
                data=_data(os.path.join(root, path), status) if holes else None,
            )
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)
    return tree


def with_rounded_times(tree: Tree) -> Tree:
    """The tree as `look` describes it without `exact`."""
    return {
        path: replace(
            found,
            description=found.description._replace(
                modified=_rounded(found.description.modified), accessed=None, changed=None
            ),
        )
        for path, found in tree.items()
    }


def _rounded(modified: int | str) -> int | str:
    return "now" if isinstance(modified, int) and modified >= BY_HAND * 10**9 else modified


def _entries(directory: str) -> list[tuple[str, int, int]]:
    """Names with inode numbers and types (d_type), sorted, without `.` and `..`."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        entries = [entry for part in iter(lambda: getdents64(fd), []) for entry in part]
    finally:
        os.close(fd)
    return sorted(
        (os.fsdecode(entry.name), entry.ino, entry.kind)
        for entry in entries
        if entry.name not in (b".", b"..")
    )


def _content(path: str, mode: int) -> bytes | str | None:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if not stat.S_ISREG(mode):
        return None
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    with open(fd, "rb") as file:
        return file.read()


def _data(path: str, status: os.stat_result) -> tuple[tuple[int, int], ...] | None:
    if not stat.S_ISREG(status.st_mode):
        return None
    found: list[tuple[int, int]] = []
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    try:
        end = 0
        while end < status.st_size:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, end))
    except OSError as error:
        if error.errno != errno.ENXIO:  # only a hole is left
            raise
    finally:
        os.close(fd)
    return tuple(found)


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def _xattrs(path: str) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
