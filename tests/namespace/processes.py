"""What runs below a process, as procfs tells it."""

from __future__ import annotations

import os
from contextlib import suppress


def children(parent: int) -> list[int]:
    """The processes started by one and not yet reaped."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with (
            suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/{name}/stat", "rb") as stat,
        ):
            if int(stat.read().rpartition(b")")[2].split()[1]) == parent:
                found.append(int(name))
    return found


def descendants(ancestor: int) -> list[int]:
    """Its children, their children, and so on."""
    family = [ancestor]
    for member in family:
        family += children(member)
    return family[1:]


def command_line(process: int) -> list[str]:
    with open(f"/proc/{process}/cmdline") as arguments:
        return arguments.read().split("\0")
