"""The capabilities of this process, and the ids that its user namespace maps.

Uid 0 alone gives no privilege. Imports no other module of overlaykit. The numbers are those of linux/capability.h.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

CAP_CHOWN: Final = 0
CAP_DAC_OVERRIDE: Final = 1
CAP_FOWNER: Final = 3
CAP_FSETID: Final = 4
CAP_KILL: Final = 5
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_SETPCAP: Final = 8
CAP_NET_BIND_SERVICE: Final = 10
CAP_NET_ADMIN: Final = 12
CAP_NET_RAW: Final = 13
CAP_SYS_CHROOT: Final = 18
CAP_SYS_ADMIN: Final = 21
CAP_SYS_RESOURCE: Final = 24
CAP_MKNOD: Final = 27
CAP_SETFCAP: Final = 31

_maps: dict[tuple[str, int], tuple[tuple[int, int, int], ...]] = {}
"""By kind and user namespace."""

ALL_IDS: Final = (1 << 32) - 1
"""How many ids there are: the last number means "none" (chown(2))."""


def capabilities(which: str = "CapEff") -> frozenset[int]:
    """A capability set of this thread, by its name in proc_pid_status(5)."""
    with open("/proc/thread-self/status", "rb", buffering=0) as status:
        for line in status.readall().splitlines():
            if line.startswith(which.encode() + b":"):
                mask = int(line.split()[1], 16)
                return frozenset(
                    number for number in range(mask.bit_length()) if mask >> number & 1
                )
    raise OSError(errno.EIO, f"no {which} in", "/proc/thread-self/status")


def extents(kind: str) -> tuple[tuple[int, int, int], ...]:
    """The `uid` or `gid` map of this user namespace: inside, outside, count (user_namespaces(7))."""
    # Once written, a map never changes.
    key = kind, os.stat("/proc/self/ns/user").st_ino
    if not _maps.get(key):
        _maps[key] = _read_map(kind)
    return _maps[key]


def overflow_id(kind: str) -> int:
    """The `uid` or `gid` that stands for ids without a mapping (user_namespaces(7))."""
    with open(f"/proc/sys/kernel/overflow{kind}", encoding="utf-8") as file:
        return int(file.read())


def outside(uid: int) -> int:
    """The uid in the parent user namespace; `uid` itself if it has no mapping."""
    for inside, parent, count in extents("uid"):
        if inside <= uid < inside + count:
            return parent + uid - inside
    return uid


def gives_files_away() -> bool:
    """Whether this process may give a file to every user and group."""
    return maps_all_ids() and CAP_CHOWN in capabilities()


def maps_all_ids() -> bool:
    """Whether this user namespace maps every user and group, as the initial one does."""
    return all(sum(count for _, _, count in extents(kind)) >= ALL_IDS for kind in ("uid", "gid"))


def _read_map(kind: str) -> tuple[tuple[int, int, int], ...]:
    with open(f"/proc/self/{kind}_map", encoding="utf-8") as file:
        lines = [tuple(map(int, line.split())) for line in file]
    return tuple((inside, outside, count) for inside, outside, count in lines)
