"""The daemon's own limits: those of the shell that mounts are not meant for the programs that use the mount.

The daemon opens, writes and allocates for every program, so its limits bind all of them. The processor affinity stays:
an administrator sets it for whole sessions to keep processors free. So does the control group (cgroups(7)).
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from typing import Final

_BINDING: Final = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_STACK,
)
"""Those that can end the daemon or fail a request, but for RLIMIT_NOFILE."""

_TOLD: Final = {
    resource.RLIMIT_FSIZE: ("no file can be written to beyond {} bytes", "f"),
    resource.RLIMIT_CPU: ("the mount ends after {} seconds of processor time", "t"),
    resource.RLIMIT_AS: ("requests fail where they take more than {} bytes of address space", "v"),
    resource.RLIMIT_DATA: ("requests fail where they take more than {} bytes of memory", "d"),
}
"""What a limit means for every program that uses the mount, and its letter for ulimit."""

_MANY_DESCRIPTORS: Final = 1 << 20
"""The kernel's own bound unless it is changed (proc_sys_fs(5): nr_open)."""

_THREAD_STACK: Final = 8 << 20
"""Bytes; a thread's stack otherwise has the size of RLIMIT_STACK at the program's start (pthread_create(3))."""

_OOM_SCORE: Final = "/proc/self/oom_score_adj"


def raise_own() -> None:
    """Raise every soft limit to the hard one, and the hard ones that bind where this process may (setrlimit(2))."""
    threading.stack_size(_THREAD_STACK)
    for name in dir(resource):
        if name.startswith("RLIMIT_"):
            number = getattr(resource, name)
            soft, hard = resource.getrlimit(number)
            if soft != hard:
                resource.setrlimit(number, (hard, hard))
    for number in _BINDING:
        _raise_hard(number, resource.RLIM_INFINITY)
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < _MANY_DESCRIPTORS:
        _raise_hard(resource.RLIMIT_NOFILE, _MANY_DESCRIPTORS)


def notes(*, writable: bool) -> tuple[str, ...]:
    """What the hard limits that this process may not raise mean for every program, a line each.

    `writable`: files of the mount can be written to. RLIMIT_NPROC is not told of: most sessions have one, which no
    daemon meets. Nor is RLIMIT_NOFILE, which the daemon shares out.
    """
    lines = []
    for number, (meaning, letter) in _TOLD.items():
        _, hard = resource.getrlimit(number)
        if hard == resource.RLIM_INFINITY or (number == resource.RLIMIT_FSIZE and not writable):
            continue
        way_out = f"raise it as root ('ulimit -H{letter} unlimited'), or use another shell"
        lines.append(f"{meaning.format(hard)}, this shell's hard limit: {way_out}")
    return tuple(lines)


def serve_everyone() -> None:
    """Give up what makes this process wait or end before the programs that it serves, as far as it may."""
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) > 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    with contextlib.suppress(OSError), open(_OOM_SCORE, "r+", encoding="ascii") as file:
        if int(file.read()) > 0:
            file.write("0")


def _raise_hard(number: int, limit: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # without CAP_SYS_RESOURCE the hard limit stays
        resource.setrlimit(number, (limit, limit))
