"""The keeper of a mount: forks its daemon, and another one when that is killed. Programs notice a pause.

The keeper is the process that has mounted. It does nothing but wait, and it has what a daemon needs that begins to
serve: the session after INIT, the layers, the confinement. It shares its table of descriptors with the daemon
(CLONE_FILES), so /dev/fuse and the files that programs have open survive; and the memory in which the data plane notes
nodes, lookups, handles and requests (native/kept.c). The next daemon's Python begins with the root alone: other nodes
are found again when a request names them (`plane`).

Requests that the daemon had read are sent again (FUSE_NOTIFY_RESEND, Linux 6.9). One that changes names is carried out
at most once (`operations`), and one with which two daemons have crashed fails with EIO. Before Linux 6.9 all do.

The daemon ends with the keeper, which ends once a daemon does by itself: its mount is gone.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import time
from typing import TYPE_CHECKING, Final

from overlaykit import _native
from overlaykit.fuse import daemon_log
from overlaykit.signals import signal

if TYPE_CHECKING:
    from collections.abc import Callable

log: Final = logging.getLogger(__name__)

FORWARDED: Final = (signal.SIGTERM, signal.SIGINT)
"""Signals that a daemon handles."""

_BEGUN: Final = signal.SIGUSR1
"""A daemon sends it to its keeper once it serves."""

_BLOCKED: Final = (*FORWARDED, _BEGUN, signal.SIGCHLD)
_NOTIFICATION: Final = struct.Struct("=IiQ")
"""struct fuse_out_header: length, code, and 0."""

_MOST_VAIN_DAEMONS: Final = 20
"""That end in succession, soon after they have begun, without having read a request: no further one would serve."""

_SOON_SECONDS: Final = 1.0

_REST_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Before and between the keeper's rests: an image is published a while after the first daemon has begun."""

_MOST_FORKS: Final = 100
_FORK_SECONDS: Final = 0.1
"""How often, and after what time, to try again when there is no memory for a process."""


def share() -> bool:
    """Prepare to keep the mount. Returns: false if this process may not have the memory. Requires: no plane yet."""
    try:
        _native.plane_share()
    except OSError as error:
        log.warning("the daemon will not be restarted if it is killed: %s", error)
        return False
    return True


def keep(on_begun: Callable[[], None], rest: Callable[[], bool] | None = None) -> bool:
    """Fork a daemon, and return in it, with the signals blocked. The keeper never returns.

    `on_begun`: what the keeper does once the first daemon serves; if that raises OSError, the daemon is ended.
    `rest`: what the keeper does after a while; it returns whether it is done.
    Returns: whether the daemon takes over from one that was killed. Requires: no other thread runs.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    daemon_log.release()
    keeper = os.getpid()
    rests = iter(_REST_SECONDS if rest is not None else ())
    own = _descriptors()
    takes_over = False
    awaited = [on_begun]
    requests = vain = 0
    while True:
        began = time.monotonic()
        daemon = _fork()
        if daemon == 0:
            _native.prctl(_native.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(1)
            return takes_over
        while (status := _wait(daemon, next(rests, None), awaited)) is None:
            if rest is not None and rest():
                rests = iter(())
        if not os.WIFSIGNALED(status):
            os._exit(os.waitstatus_to_exitcode(status))
        log.warning("the daemon was ended by signal %d", os.WTERMSIG(status))
        before = requests
        requests, descriptors = _native.plane_kept(os.WTERMSIG(status) != signal.SIGKILL)
        is_vain = requests == before and time.monotonic() - began < _SOON_SECONDS
        vain = vain + 1 if is_vain else 0
        if vain > _MOST_VAIN_DAEMONS:
            log.error("daemons end as soon as they begin: the mount ends")
            os._exit(1)
        daemon_log.release()
        # What else that daemon had open.
        kept = {descriptor for pair in descriptors for descriptor in pair}
        for descriptor in _descriptors() - own - kept:
            try:
                os.close(descriptor)
            except OSError as error:
                if error.errno != errno.EBADF:  # it was the listing's own
                    log.warning("closing a descriptor: %s", error)
        takes_over = True


def begin(keeper: int) -> None:
    """Tell the keeper that this daemon serves."""
    os.kill(keeper, _BEGUN)


def let_signals_arrive() -> None:
    """Let the signals arrive that the keeper forwards. Requires: they are handled."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)


def resend(device: int) -> None:
    """Have the kernel send again what the killed daemon has not answered. Before Linux 6.9 that fails with EIO."""
    try:
        os.write(device, _NOTIFICATION.pack(_NOTIFICATION.size, _native.FUSE_NOTIFY_RESEND, 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _native.plane_refuse(device)


def _fork() -> int:
    for _ in range(_MOST_FORKS):
        try:
            return _native.fork_with_descriptors()
        except OSError as error:
            log.warning("no process for the daemon: %s", error)
        time.sleep(_FORK_SECONDS)
    os._exit(1)


def _wait(daemon: int, seconds: float | None, awaited: list[Callable[[], None]]) -> int | None:
    """Wait until the daemon ends, and pass signals on to it. Returns: its status; None after `seconds`.

    `awaited`: called, and taken away, once the daemon serves.
    """
    while True:
        if seconds is None:
            number: int = signal.sigwait(_BLOCKED)
        else:
            info = signal.sigtimedwait(_BLOCKED, seconds)
            if info is None:
                return None
            number = info.si_signo
        if number == _BEGUN:
            try:
                while awaited:
                    awaited.pop()()
            except OSError as error:
                log.info("nobody waits for the mount: %s", error)
                os.kill(daemon, signal.SIGTERM)
            continue
        if number != signal.SIGCHLD:
            os.kill(daemon, number)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == daemon:
                return status
            if pid == 0:
                break


def _descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}
