"""The daemon behind a keeper: kill it, and wait for the next one."""

from __future__ import annotations

import contextlib
import os
import select
import signal

from .mounted import Mounted


def daemon_of(keeper: int) -> int:
    """The pid of the daemon that a keeper has forked; 0 if there is none now."""
    with open(f"/proc/{keeper}/task/{keeper}/children", encoding="ascii") as file:
        children = [int(pid) for pid in file.read().split()]
    for pid in children:
        with contextlib.suppress(OSError):  # it has ended
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):  # closed since
                    if os.readlink(f"/proc/{pid}/fd/{descriptor}") == "/dev/fuse":
                        return pid
    return 0


def kill_daemon(mount: Mounted) -> None:
    """Kill the daemon that serves a mount, and wait until it has ended."""
    while not (pid := daemon_of(mount.process.pid)):
        pass
    end_daemon(pid, signal.SIGKILL)
    assert mount.process.is_alive()


def end_daemon(pid: int, number: signal.Signals) -> None:
    """Send a signal to a daemon, and wait until it has ended."""
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(ended, number)
        select.select([ended], [], [])
    except ProcessLookupError:
        pass
    finally:
        os.close(ended)
