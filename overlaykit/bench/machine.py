"""The machine of a run: the facts that the figures depend on."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from typing import Final

from overlaykit import __version__, mountinfo
from overlaykit.bench.results import Machine

_PROGRAMS: Final = (
    "fuse-overlayfs",
    "unionfs",
    "mergerfs",
    "fio",
    "git",
    "gcc",
    "bwrap",
    "podman",
    "unshare",
)
_LIBRARY_LINE: Final = re.compile(r"fusermount|FUSE|using FUSE")
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+")


def describe_machine(directory: str) -> Machine:
    """Describe this machine. `directory` is on the file system that is measured."""
    return Machine(
        kernel=platform.release(),
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        python=platform.python_version(),
        file_system=_file_system(directory),
        uid=os.geteuid(),
        programs={"overlaykit": __version__} | _versions(),
    )


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.machine()


def _file_system(directory: str) -> str:
    """The type of the file system that holds a directory."""
    path = os.path.realpath(directory)
    found = "unknown"
    for mount in mountinfo.visible(mountinfo.current()):
        if path == mount.mountpoint or mountinfo.below(path, mount.mountpoint):
            found = mount.fstype
    return found


def _versions() -> dict[str, str]:
    """The versions of the installed programs by their own output, without those of their libraries."""
    versions = {}
    for program in filter(shutil.which, _PROGRAMS):
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        own = [line for line in done.stdout.splitlines() if not _LIBRARY_LINE.match(line)]
        if match := _VERSION.search("\n".join(own)):
            versions[program] = match[0]
    return versions
