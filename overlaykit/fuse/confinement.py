"""The confinement of a daemon that has mounted: a filter of system calls, for all of its threads and children.

The filter is made when overlaykit is built (`namespace/seccomp_daemon.py`, `setup.py`), and read from a file here. It
refuses to execute programs, to mount, to make sockets and namespaces, to trace processes, and all that no daemon does.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import Final

import overlaykit
from overlaykit import _native

log: Final = logging.getLogger(__name__)

_THREADS: Final = "_seccomp_threads.bpf"
_VIEW: Final = "_seccomp_daemon.bpf"
_MOUNT: Final = "_seccomp_mount_daemon.bpf"
_SERVER: Final = "_seccomp_server.bpf"

_ABSENT: Final = (errno.ENOSYS, errno.EINVAL)
"""A kernel without filters (seccomp(2))."""


def confine(*, attached: bool) -> None:
    """Filter the system calls of this process. `attached`: it serves a mount that it unmounts itself when asked to.

    The process gains no privileges by execve(2) any more, and may not execute anything.
    Raises OSError. Ensures: without a filter in this installation or in the kernel, the log says so.
    """
    _confine(_MOUNT if attached else _VIEW)


def confine_server() -> None:
    """Filter the system calls of the fork server, and of the daemons that it forks. As `confine`."""
    _confine(_SERVER)


def _confine(program: str) -> None:
    try:
        threads, others = _read(_THREADS), _read(program)
    except FileNotFoundError as error:
        log.warning("%s is missing: the daemon runs without a filter", error.filename)
        return
    _native.prctl(_native.PR_SET_NO_NEW_PRIVS, 1)
    try:
        _install(threads)
        _install(others, _native.SECCOMP_FILTER_FLAG_LOG)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        log.warning("the kernel has no filters of system calls: the daemon runs without one")


def _install(program: bytes, flags: int = 0) -> None:
    """Have a filter hold for every thread. Raises: OSError (EBUSY if one has a filter of its own)."""
    flags |= _native.SECCOMP_FILTER_FLAG_TSYNC
    if _native.seccomp(_native.SECCOMP_SET_MODE_FILTER, flags, program):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _read(name: str) -> bytes:
    with open(os.path.join(os.path.dirname(overlaykit.__file__), name), "rb") as file:
        return file.read()
