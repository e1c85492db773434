"""Systems that a command mounts, as a daemon in the background or in the foreground."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence

from overlaykit.bench.systems.mounting import Directories, Mounting, Uncounted, is_mountpoint
from overlaykit.bench.systems.processes import TIMEOUT_SECONDS
from overlaykit.bench.workload import Unfit

Arguments = Callable[[Directories], Sequence[str]]


class Command(Mounting):
    """A mounted system. `arguments` builds the command line; `what` shows it with the placeholders of `--system`."""

    def __init__(self, name: str, what: str, arguments: Arguments) -> None:
        self.name = name
        self.what = what
        self._arguments = arguments

    def mount(self, directories: Directories) -> Uncounted:
        _run(self._arguments(directories), directories.target)
        return Uncounted(directories.target)


def _run(argv: Sequence[str], target: str) -> None:
    """Run a command until `target` is mounted.

    Raises: Unfit if the command fails or the mount takes longer than TIMEOUT_SECONDS.
    """
    with tempfile.TemporaryFile() as errors:  # no pipe: a daemon keeps it open
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        mounted = _await_mount(target, process)
        errors.seek(0)
        lines = errors.read().decode(errors="replace").split("\n")
    if mounted:
        # The process may be the daemon: `reap_on_exit` waits for it.
        process.returncode = 0
        return
    if process.returncode:
        last = next((line for line in reversed(lines) if line.strip()), None)
        raise Unfit(f"cannot be mounted: {last or f'exit status {process.returncode}'}")
    process.kill()
    process.wait()
    raise Unfit(f"nothing is mounted {TIMEOUT_SECONDS:g} seconds after its command began")


def _await_mount(target: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait for a mount at `target`; false if the command fails or time runs out."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    ended = os.pidfd_open(process.pid)
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            # POLLPRI reports changes (proc_pid_mounts(5)).
            poll = select.poll()
            poll.register(mounts, select.POLLPRI)
            poll.register(ended, select.POLLIN)
            while not is_mountpoint(target):
                left = deadline - time.monotonic()
                ready = [fd for fd, _ in poll.poll(left * 1000)] if left > 0 else []
                if not ready:
                    return False
                if ended in ready:
                    if process.wait() != 0:
                        return False
                    poll.unregister(ended)
        return True
    finally:
        os.close(ended)
