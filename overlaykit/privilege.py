"""What this process may do, by its capabilities and its user namespace, whatever its uid: 0 alone makes no root.

Imports nothing, so every room may ask. The numbers are those of linux/capability.h.
"""

from __future__ import annotations

import errno
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
CAP_MKNOD: Final = 27
CAP_SETFCAP: Final = 31

_ALL_IDS: Final = (1 << 32) - 1  # the last number means "none" (chown(2))


def capabilities(which: str = "CapEff") -> frozenset[int]:
    """A set of this thread's, by its name in proc_pid_status(5): what it may do over its own user namespace."""
    with open("/proc/thread-self/status", "rb", buffering=0) as status:
        for line in status.readall().splitlines():
            if line.startswith(which.encode() + b":"):
                mask = int(line.split()[1], 16)
                return frozenset(
                    number for number in range(mask.bit_length()) if mask >> number & 1
                )
    raise OSError(errno.EIO, f"no {which} in", "/proc/thread-self/status")


def extents(kind: str) -> list[tuple[int, int, int]]:
    """The map of this user namespace for `uid` or `gid`: inside, outside, count (user_namespaces(7))."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        lines = [tuple(map(int, line.split())) for line in file]
    return [(inside, outside, count) for inside, outside, count in lines]


def gives_files_away() -> bool:
    """Whether any user and group can be given a file: not in a user namespace that knows but some."""
    known = all(sum(count for _, _, count in extents(kind)) >= _ALL_IDS for kind in ("uid", "gid"))
    return known and CAP_CHOWN in capabilities()
