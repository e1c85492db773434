"""The systems that a run compares by default."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Final

from overlaykit.bench.results import LeftOut
from overlaykit.bench.systems.command import Command
from overlaykit.bench.systems.directory import Directory
from overlaykit.bench.systems.kernel import Kernel
from overlaykit.bench.systems.mounting import Directories
from overlaykit.bench.systems.ours import Ours
from overlaykit.bench.systems.system import System

PLAIN: Final = "plain"
"""The name of the plain directory."""

PROGRAMS: Final = {
    "fuse-overlayfs": ("fuse-overlayfs", "fuse-overlayfs"),
    "unionfs-fuse": ("unionfs", "unionfs-fuse"),
    "mergerfs": ("mergerfs", "mergerfs"),
}
"""Name -> the program and its Debian package."""


def known() -> tuple[list[System], list[LeftOut]]:
    """The installed systems, and the others with the reason."""
    systems: list[System] = [
        Directory(PLAIN, "a directory, with a copy of the files"),
        Kernel(),
        Ours(),
    ]
    left_out = []
    for system in (_fuse_overlayfs(), _unionfs(), _mergerfs()):
        program, package = PROGRAMS[system.name]
        if shutil.which(program):
            systems.append(system)
        else:
            why = f"there is no {program}: apt-get install {package}"
            left_out.append(LeftOut(system=system.name, workload="", why=why))
    return systems, left_out


def _fuse_overlayfs() -> Command:
    def arguments(at: Directories) -> Sequence[str]:
        layers = f"lowerdir={':'.join(at.lowers)},upperdir={at.upper},workdir={at.work}"
        return ("fuse-overlayfs", "-o", layers, at.target)

    return Command(
        "fuse-overlayfs",
        "fuse-overlayfs -o lowerdir={lower},upperdir={upper},workdir={work} {target}",
        arguments,
    )


def _unionfs() -> Command:
    def arguments(at: Directories) -> Sequence[str]:
        branches = (f"{at.upper}=RW", *(f"{lower}=RO" for lower in at.lowers))
        return ("unionfs", "-o", "cow", ":".join(branches), at.target)

    return Command("unionfs-fuse", "unionfs -o cow {upper}=RW:{lower}=RO {target}", arguments)


def _mergerfs() -> Command:
    """mergerfs with the page cache, which shared writable mappings need, and a short source name."""
    options = "cache.files=partial,dropcacheonclose=false,category.create=ff,fsname=mergerfs"

    def arguments(at: Directories) -> Sequence[str]:
        branches = (f"{at.upper}=RW", *(f"{lower}=RO" for lower in at.lowers))
        return ("mergerfs", "-o", options, ":".join(branches), at.target)

    return Command(
        "mergerfs", f"mergerfs -o {options} {{upper}}=RW:{{lower}}=RO {{target}}", arguments
    )
