"""The processes that hold a mount: users of its files, and members of other mount namespaces that have it mounted.

A mount is identified by its st_dev. No function here sends a request to its daemon, which may not answer
(AT_STATX_DONT_SYNC, statx(2)). Processes that this user may not inspect are left out (proc(5): ptrace access).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from overlaykit import _native, attributes, mountinfo, procfs
from overlaykit.fuse.mountpoints import FILE_SYSTEM_TYPE

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterator, Sequence

_AT_STATX_DONT_SYNC: Final = 0x4000  # include/uapi/linux/fcntl.h
_MOST_NAMED: Final = 5
"""Processes in one message."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has files of the mount open, mapped, or as a directory (`uses`), or in its mount namespace."""

    pid: int
    command: str
    uses: bool


def device_of(path: str) -> int:
    """The st_dev of a path, without a request to its file system."""
    return attributes.statx(_native.AT_FDCWD, path, _AT_STATX_DONT_SYNC, 0).dev


def mount_id_of(path: str) -> int:
    """The mount id of a path, without a request to its file system."""
    flags = _AT_STATX_DONT_SYNC
    return attributes.statx(_native.AT_FDCWD, path, flags, _native.STATX_MNT_ID).mnt_id


def find(device: int, *, besides: Collection[int] = ()) -> list[Holder]:
    """The processes that hold the mount of a device, without this one, `besides`, and the children of those."""
    here = {mount.id for mount in mountinfo.current() if mount.device == device}
    elsewhere: dict[str, bool] = {}
    found = []
    for pid in processes():
        if pid == os.getpid() or pid in besides:
            continue
        # The process has ended.
        with contextlib.suppress(OSError):
            if besides and procfs.parent(pid) in besides:
                continue
            if is_user(pid, device):
                found.append(Holder(pid, _command(pid), uses=True))
                continue
            namespace = _namespace(pid)
            if namespace not in elsewhere:
                # A mount of another type has the number of one that is gone.
                ids = {
                    one.id
                    for one in mountinfo.of_process(pid)
                    if one.device == device and one.fstype == FILE_SYSTEM_TYPE
                }
                elsewhere[namespace] = bool(ids - here)
            if elsewhere[namespace]:
                found.append(Holder(pid, _command(pid), uses=False))
    return found


def paths(pid: int, device: int) -> list[str]:
    """The paths of a mount in the mount namespace of process `pid`, as this process reaches them. Raises OSError."""
    return [
        f"/proc/{pid}/root{one.mountpoint}"
        for one in mountinfo.of_process(pid)
        if one.device == device
    ]


def another_with(mount_id: int, besides: Container[int]) -> int:
    """A pidfd of the other process with the lowest pid whose mount namespace has this mount; -1: only `besides` have.

    Searches twice: a process may fork and end during the search.
    """
    for pid in (*processes(), *processes()):
        # The process has ended.
        with contextlib.suppress(OSError):
            if pid == os.getpid() or pid in besides:
                continue
            if any(one.id == mount_id for one in mountinfo.of_process(pid)):
                return os.pidfd_open(pid)
    return -1


def describe(holders: Sequence[Holder]) -> str:
    """The processes for a message, users first."""
    if not holders:
        return "processes that this user cannot see"
    ordered = sorted(holders, key=lambda one: (not one.uses, one.pid))
    named = ", ".join(f"{one.pid} ({one.command})" for one in ordered[:_MOST_NAMED])
    more = len(ordered) - _MOST_NAMED
    return named + (f" and {more} more" if more > 0 else "")


def processes() -> Iterator[int]:
    """The processes of this PID namespace, lowest number first."""
    yield from sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())


def is_user(pid: int, device: int) -> bool:
    """Whether a process has files of the mount of this device open, mapped, or as a directory. Raises OSError."""
    for link in _links(pid):
        with contextlib.suppress(OSError):
            if device_of(link) == device:
                return True
    with contextlib.suppress(PermissionError), open(f"/proc/{pid}/maps", "rb") as maps:
        wanted = b" %02x:%02x " % (os.major(device), os.minor(device))
        return wanted in maps.read()
    return False


def _links(pid: int) -> Iterator[str]:
    yield from (f"/proc/{pid}/{name}" for name in ("cwd", "root", "exe"))
    with contextlib.suppress(PermissionError):
        yield from (f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd"))


def _namespace(pid: int) -> str:
    """A key for the mount namespace of a process: the pid if the namespace may not be seen."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except PermissionError:
        return str(pid)


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().rstrip("\n")
