"""Comparison of a listing with lstat."""

from __future__ import annotations

import os
import stat


def wrongly_listed(path: str) -> list[str]:
    """The names whose inode number or kind in a listing differs from lstat after it."""
    with os.scandir(path) as entries:
        listed = {entry.name: (entry.inode(), kind_listed(entry)) for entry in entries}
    assert len(listed) > 256, "not wide enough"
    stats = {name: os.lstat(os.path.join(path, name)) for name in listed}
    return [
        name
        for name, shown in listed.items()
        if shown != (stats[name].st_ino, stat.S_IFMT(stats[name].st_mode))
    ]


def kind_listed(entry: os.DirEntry[str]) -> int:
    """The S_IFMT bits of an entry; those that scandir does not distinguish as S_IFIFO."""
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFREG if entry.is_file(follow_symlinks=False) else stat.S_IFIFO
