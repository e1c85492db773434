"""The resource limits of the daemon, raised beyond those of the shell that starts it.

The daemon opens, writes and allocates for all programs that use the mount, so its limits bind them all. CPU affinity
and control group (cgroups(7)) stay: an administrator sets them for a whole session.
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
"""Limits that can end the daemon or fail a request; RLIMIT_NOFILE is apart."""

_NOTES: Final = {
    resource.RLIMIT_FSIZE: ("no file can be written to beyond {} bytes", "f"),
    resource.RLIMIT_CPU: ("the mount ends after {} seconds of processor time", "t"),
    resource.RLIMIT_AS: ("requests fail where they take more than {} bytes of address space", "v"),
    resource.RLIMIT_DATA: ("requests fail where they take more than {} bytes of memory", "d"),
}
"""The effect of a limit on programs that use the mount, and its letter for ulimit."""

_MANY_DESCRIPTORS: Final = 1 << 20
"""The kernel's default maximum (proc_sys_fs(5): nr_open)."""

_THREAD_STACK_BYTES: Final = 8 << 20
"""The default is RLIMIT_STACK at the program's start (pthread_create(3))."""

_OOM_SCORE: Final = "/proc/self/oom_score_adj"


def raise_own() -> None:
    """Raise all soft limits to the hard ones, and hard limits that bind as far as permitted (setrlimit(2))."""
    threading.stack_size(_THREAD_STACK_BYTES)
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
    """The effects of the hard limits that this process may not raise, a line each.

    `writable`: the mount has an upper. Without RLIMIT_NPROC, which most sessions have and no daemon reaches, and
    RLIMIT_NOFILE, which the daemon shares out.
    """
    lines = []
    for number, (meaning, letter) in _NOTES.items():
        _, hard = resource.getrlimit(number)
        if hard == resource.RLIM_INFINITY or (number == resource.RLIMIT_FSIZE and not writable):
            continue
        way_out = f"raise it as root ('ulimit -H{letter} unlimited'), or use another shell"
        lines.append(f"{meaning.format(hard)}, this shell's hard limit: {way_out}")
    return tuple(lines)


def serve_everyone() -> None:
    """Reset nice value and OOM score, so that the kernel favours no program over the daemon that serves it."""
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) > 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    with contextlib.suppress(OSError), open(_OOM_SCORE, "r+", encoding="ascii") as file:
        if int(file.read()) > 0:
            file.write("0")


def _raise_hard(number: int, limit: int) -> None:
    # Raising a hard limit requires CAP_SYS_RESOURCE.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(number, (limit, limit))
