"""Directories whose path is longer than PATH_MAX."""

from __future__ import annotations

import os

DEEP_NAMES = tuple(f"{number:02}" + "n" * 253 for number in range(20))
DEEP_PATH = "/".join(DEEP_NAMES)


def make_deep(root: str) -> int:
    """Make `DEEP_PATH` below `root`. Returns: a descriptor of the last directory, which the caller closes."""
    at = os.open(root, os.O_PATH)
    for name in DEEP_NAMES:
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_PATH, dir_fd=at)
        os.close(at)
        at = below
    return at
