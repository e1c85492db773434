"""The mounts of a process, and which of them a path can reach.

Source: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os

from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DELETED = b"//deleted"


class Mount(Record, kw_only=True):
    """One line of mountinfo."""

    id: int
    parent: int
    device: int
    """st_dev of its superblock; all copies of a mount have it, in every mount namespace."""
    root: str
    """The directory of its file system that is its root."""
    mountpoint: str
    fstype: str
    idmapped: bool
    """Whether it is idmapped (mount_setattr(2))."""
    options: tuple[str, ...] = ()
    """The options of its superblock."""


def parse(mountinfo: bytes) -> list[Mount]:
    """Parse a mountinfo file, in its order, without mounts on deleted directories."""
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
                options=tuple(os.fsdecode(_unescape(after.split(b" ")[-1])).split(",")),
            )
        )
    return mounts


def current() -> list[Mount]:
    """The mounts below the root directory of this process."""
    return of_process("self")


def of_process(process: int | str) -> list[Mount]:
    """The mounts below the root directory of a process.

    Raises:
      OSError: it has ended, or may not be read.
    """
    with open(f"/proc/{process}/mountinfo", "rb") as file:
        return parse(file.read())


def visible(mounts: Iterable[Mount]) -> Iterator[Mount]:
    """The mounts that a path can reach, each before those below it.

    A mount is covered by a later one of the same parent at the same path or above it.
    """
    mounts = list(mounts)
    children: dict[int, list[Mount]] = {}
    for mount in mounts:
        children.setdefault(mount.parent, []).append(mount)
    known = {mount.id for mount in mounts}
    reached = [m for m in mounts if m.mountpoint == "/" and m.parent not in known]
    while reached:
        mount = reached.pop()
        above = children.get(mount.id, [])
        cover = next((m for m in above if m.mountpoint == mount.mountpoint), None)
        if cover is not None:
            reached.append(cover)
            continue
        yield mount
        points = [m.mountpoint for m in above]
        reached.extend(m for m in above if not any(below(m.mountpoint, p) for p in points))


def below(path: str, directory: str) -> bool:
    """Whether an absolute, normalized `path` is strictly below `directory`."""
    return path != directory and path.startswith(directory.rstrip("/") + "/")


def outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """The absolute, normalized `paths`, sorted, without those below another of them."""
    kept: list[str] = []
    for path in sorted(set(paths), key=lambda path: path.split("/")):
        if not (kept and below(path, kept[-1])):
            kept.append(path)
    return tuple(kept)


def _unescape(field: bytes) -> bytes:
    """A field whose spaces, newlines and backslashes are written as three octal digits after a backslash."""
    if b"\\" not in field:
        return field
    plain, *escaped = field.split(b"\\")
    return plain + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in escaped)
