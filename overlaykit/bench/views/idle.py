"""Idle processes: commands that run while something is measured.

They end at the end of their standard input, so that none outlives this process.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING, Final

from overlaykit.bench.systems.processes import TIMEOUT_SECONDS, reap_on_exit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from overlaykit.bench.workload import Interruptible

IDLE: Final = ("sh", "-c", "echo ready; exec cat")
"""A command that prints "ready" and waits for the end of its input."""


@contextlib.contextmanager
def idle_processes(
    commands: Sequence[Sequence[str]],
    interruptible: Interruptible,
    *,
    at_once: int = 1,
    environment: Mapping[str, str] | None = None,
    seconds: list[float] | None = None,
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the commands, `at_once` at a time, wait until each prints "ready", and end them all afterwards.

    `seconds` gets the time that each batch takes to start.
    Raises: CalledProcessError with the error output if a command ends instead.
    """
    # Unwound from the right: all inputs are closed before the first wait.
    with reap_on_exit(), contextlib.ExitStack() as waits, contextlib.ExitStack() as inputs:
        started: list[subprocess.Popen[bytes]] = []
        for first in range(0, len(commands), at_once):
            batch = []
            began = time.perf_counter()
            for command in commands[first : first + at_once]:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                )
                waits.callback(_await_end, process)
                assert process.stdin is not None
                inputs.callback(process.stdin.close)
                batch.append(process)
            with interruptible():
                for process in batch:
                    _await_ready(process)
            if seconds is not None:
                seconds.append(time.perf_counter() - began)
            started += batch
        yield started


def _await_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        _, errors = process.communicate()
        raise subprocess.CalledProcessError(process.returncode, process.args, stderr=errors)


def _await_end(process: subprocess.Popen[bytes]) -> None:
    with process:
        try:
            process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
