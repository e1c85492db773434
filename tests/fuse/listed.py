"""What a listing tells of each name, beside what stat tells."""

from __future__ import annotations

import os
import stat


def wrongly_listed(path: str) -> list[str]:
    """The names of which a listing does not tell what stat tells of each, when all of it was read."""
    with os.scandir(path) as entries:
        listed = {entry.name: (entry.inode(), kind_listed(entry)) for entry in entries}
    assert len(listed) > 256, "not wide enough"
    told = {name: os.lstat(os.path.join(path, name)) for name in listed}
    return [
        name
        for name, shown in listed.items()
        if shown != (told[name].st_ino, stat.S_IFMT(told[name].st_mode))
    ]


def kind_listed(entry: os.DirEntry[str]) -> int:
    """The S_IFMT bits, as far as the listing tells them apart."""
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFREG if entry.is_file(follow_symlinks=False) else stat.S_IFIFO
