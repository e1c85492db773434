"""Systems that a command mounts, whether it leaves a daemon behind or is the daemon itself."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence

from overlaykit.bench.systems.mounting import Directories, Mounting, Uncounted, is_mountpoint
from overlaykit.bench.systems.processes import PATIENCE
from overlaykit.bench.workload import Unfit

Arguments = Callable[[Directories], Sequence[str]]


class Command(Mounting):
    """`arguments` gives the command for one mount; `what` shows it with the placeholders of `--system`."""

    def __init__(self, name: str, what: str, arguments: Arguments) -> None:
        self.name = name
        self.what = what
        self._arguments = arguments

    def mount(self, directories: Directories) -> Uncounted:
        _run(self._arguments(directories), directories.target)
        return Uncounted(directories.target)


def _run(argv: Sequence[str], target: str) -> None:
    """Run a command until there is a mount at `target`. Raises Unfit if it fails, or mounts nothing in good time."""
    with tempfile.TemporaryFile() as said:  # no pipe: a daemon keeps it open
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        mounted = _await_mount(target, process)
        said.seek(0)
        words = said.read().decode(errors="replace").split("\n")
    if mounted:
        # It may be the daemon, and its end is awaited with that of all others.
        process.returncode = 0
        return
    if process.returncode:
        last = next((word for word in reversed(words) if word.strip()), None)
        raise Unfit(f"cannot be mounted: {last or f'exit status {process.returncode}'}")
    process.kill()
    process.wait()
    raise Unfit(f"nothing is mounted {PATIENCE:g} seconds after its command began")


def _await_mount(target: str, process: subprocess.Popen[bytes]) -> bool:
    """False once the command has failed, or had its time."""
    deadline = time.monotonic() + PATIENCE
    ended = os.pidfd_open(process.pid)
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:  # tells of changes (proc_pid_mounts(5))
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
