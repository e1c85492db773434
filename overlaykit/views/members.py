"""The processes of a running view, as its host sees them, and what they use."""

from __future__ import annotations

import os

from overlaykit import procfs
from overlaykit.record import Record
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.views.entry import About

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_STAT_UTIME: Final = 11
"""The index in proc_pid_stat(5) after the name of the program."""
_HELPER: Final = b"helper"
"""The name of the first process of another PID namespace (native/helper.c). An ordinary user may not compare those."""


class Member(Record, kw_only=True):
    """A process. `inside`: its process id in the view; `seconds`: of processor time; `memory`: bytes (PSS)."""

    pid: int
    inside: int
    uid: int
    state: str
    seconds: float
    memory: int
    command: tuple[str, ...]


class Usage(Record, kw_only=True):
    """What a view uses. `memory`: bytes; `limit`: of its memory, None: no own limit."""

    processes: int
    seconds: float
    memory: int
    limit: int | None


def members(about: About) -> list[Member]:
    """The processes of a view, by their process ids; those that end are left out."""
    found = []
    for pid in sorted(process_ids(about)):
        with suppress(OSError, ValueError):
            found.append(_member(pid))
    return found


def process_ids(about: About) -> set[int]:
    """The process ids of the processes of a view."""
    init = init_of(about.supervisor)
    pids = set() if init is None else {init, *procfs.descendants(init)}
    with suppress(OSError):
        # What has joined it is no descendant of its init.
        namespace = os.stat(f"/proc/{about.supervisor}/ns/pid_for_children").st_ino
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with suppress(OSError):
                if os.stat(f"/proc/{name}/ns/pid").st_ino == namespace:
                    pids.add(int(name))
    return pids


def init_of(supervisor: int) -> int | None:
    """The process id of the init of a view: the first process of its PID namespace. None if it has ended."""
    for child in procfs.children(supervisor):
        with suppress(OSError):
            if procfs.innermost(child) == 1 and not is_helper(child):
                return child
    return None


def is_helper(process: int) -> bool:
    """Whether a child of a supervisor is the helper of the view's network. Raises: OSError: it has ended."""
    return _name_of(process) == _HELPER


def usage(about: About) -> Usage:
    """What all of them use together: by the control groups of the view, or the sum where it has none."""
    found = members(about)
    used, limit = _memory_of_groups(about.cgroups)
    return Usage(
        processes=len(found),
        seconds=sum(member.seconds for member in found),
        memory=sum(member.memory for member in found) if used is None else used,
        limit=limit,
    )


def _name_of(pid: int) -> bytes:
    with open(f"/proc/{pid}/comm", "rb") as file:
        return file.read().rstrip(b"\n")


def _member(pid: int) -> Member:
    """Raises: OSError, ValueError: it has ended."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        command = file.read().split(b"\0")[:-1]
    program = _name_of(pid)
    ticks = int(fields[_STAT_UTIME]) + int(fields[_STAT_UTIME + 1])
    return Member(
        pid=pid,
        inside=procfs.innermost(pid),
        uid=os.stat(f"/proc/{pid}").st_uid,
        state=fields[0].decode(),
        seconds=ticks / _TICKS_PER_SECOND,
        memory=_pss(pid),
        command=tuple(map(os.fsdecode, command or [b"[" + program + b"]"])),
    )


def _pss(pid: int) -> int:
    """Bytes; 0 for a process that may not be looked into: the view's init."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def _memory_of_groups(groups: tuple[str, ...]) -> tuple[int | None, int | None]:
    """What is used and the limit, in bytes, of the group with a memory controller of either version."""
    for group in groups:
        for used, limit in (
            ("memory.current", "memory.max"),
            ("memory.usage_in_bytes", "memory.limit_in_bytes"),
        ):
            with (
                suppress(OSError, ValueError),
                open(os.path.join(group, used)) as current,
                open(os.path.join(group, limit)) as most,
            ):
                allowed = most.read().strip()
                return int(current.read()), None if allowed == "max" else int(allowed)
    return None, None
