"""The mounts of this process, and which of them a path can reach.

Source: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_ESCAPE = re.compile(rb"\\([0-7]{3})")
_DELETED = b"//deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo."""

    id: int
    parent: int
    device: int
    """st_dev of its superblock: every copy of a mount has it, in whichever mount namespace, and no other mount."""
    root: str
    """The directory of its file system that it shows."""
    mountpoint: str
    fstype: str
    idmapped: bool
    """Whether it shows owners as others (mount_setattr(2))."""


def parse(mountinfo: bytes) -> list[Mount]:
    """The lines of a mountinfo file, in its order; mounts on a deleted directory are left out."""
    mounts = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(b" - ")
        number, parent, device, root, mountpoint, options = before.split()[:6]
        if mountpoint.endswith(_DELETED):
            continue
        mounts.append(
            Mount(
                id=int(number),
                parent=int(parent),
                device=os.makedev(*map(int, device.split(b":"))),
                root=os.fsdecode(_unescape(root)),
                mountpoint=os.fsdecode(_unescape(mountpoint)),
                fstype=os.fsdecode(_unescape(after.split()[0])),
                idmapped=b"idmapped" in options.split(b","),
            )
        )
    return mounts


def current() -> list[Mount]:
    """The mounts of this process's mount namespace below its root."""
    return of_process("self")


def of_process(process: int | str) -> list[Mount]:
    """The mounts of a process's mount namespace below its root. Raises OSError if it has ended."""
    with open(f"/proc/{process}/mountinfo", "rb") as file:
        return parse(file.read())


def visible(mounts: Iterable[Mount]) -> Iterator[Mount]:
    """The mounts a path can reach, the root's first, each before those below it.

    A mount is out of reach when another of the same parent lies over a directory above it, or when one
    lies over the whole of it.
    """
    mounts = list(mounts)
    children: defaultdict[int, list[Mount]] = defaultdict(list)
    for mount in mounts:
        children[mount.parent].append(mount)
    known = {mount.id for mount in mounts}
    reached = [m for m in mounts if m.mountpoint == "/" and m.parent not in known]
    while reached:
        mount = reached.pop()
        above = children[mount.id]
        cover = next((m for m in above if m.mountpoint == mount.mountpoint), None)
        if cover is not None:
            reached.append(cover)
            continue
        yield mount
        points = [m.mountpoint for m in above]
        reached.extend(m for m in above if not any(below(m.mountpoint, p) for p in points))


def below(path: str, directory: str) -> bool:
    """Whether an absolute, normal `path` lies strictly below `directory`."""
    return path != directory and path.startswith(directory.rstrip("/") + "/")


def outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """The absolute, normal `paths` without those below another of them, sorted."""
    kept: list[str] = []
    for path in sorted(set(paths), key=lambda path: path.split("/")):
        if not (kept and below(path, kept[-1])):
            kept.append(path)
    return tuple(kept)


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field)
