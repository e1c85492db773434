"""The command line of a process."""

from __future__ import annotations


def command_line(process: int) -> list[str]:
    with open(f"/proc/{process}/cmdline") as arguments:
        return arguments.read().split("\0")
