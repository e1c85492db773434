"""What of the host a program in a view could have changed, and proof that it did not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

SYSTEM = ("/etc", "/usr/bin", "/usr/lib/python3", "/var/lib/dpkg", "/opt")


@dataclass(frozen=True, slots=True)
class Seen:
    """One name, with what changes when anything about it does: ctime is nobody's to set (inode(7))."""

    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def manifest(directories: Iterable[str]) -> dict[str, Seen]:
    """Everything below directories, as it is now; what may not be read is seen from outside."""
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
