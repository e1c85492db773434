"""The host's files that a program in a view must not change."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

SYSTEM = ("/etc", "/usr/bin", "/usr/lib/python3", "/var/lib/dpkg", "/opt")


@dataclass(frozen=True, slots=True)
class Seen:
    """The attributes of a file that show every change: no program can set ctime (inode(7))."""

    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def manifest(directories: Iterable[str]) -> dict[str, Seen]:
    """All files below directories; of a directory without read permission only itself."""
    found = {}
    paths = list(directories)
    for path in paths:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        found[path] = Seen(status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if os.path.isdir(path) and not os.path.islink(path) and os.access(path, os.R_OK | os.X_OK):
            paths += [os.path.join(path, name) for name in os.listdir(path)]
    return found
