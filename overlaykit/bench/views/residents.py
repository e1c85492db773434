"""Commands that stay until they are told to end: what has to be running to be measured.

They end with their standard input, so that nothing of them outlives whoever measures, however that ends.
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Final

from overlaykit.bench.systems.processes import PATIENCE, looked_after

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from overlaykit.bench.workload import Interruptible

IDLE: Final = ("sh", "-c", "echo ready; exec cat")
"""A command that says when it runs, and then waits for the end of its input."""


@contextlib.contextmanager
def residents(
    commands: Sequence[Sequence[str]],
    interruptible: Interruptible,
    *,
    at_once: int = 1,
    environment: Mapping[str, str] | None = None,
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the commands, `at_once` at a time, and wait until each has said "ready"; at the end, end them all.

    Raises CalledProcessError if one ends instead, with what it said.
    """
    with looked_after(), contextlib.ExitStack() as ended, contextlib.ExitStack() as told:
        # All are told to end before the first is waited for.
        started: list[subprocess.Popen[bytes]] = []
        for first in range(0, len(commands), at_once):
            batch = []
            for command in commands[first : first + at_once]:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                )
                ended.callback(_await_end, process)
                assert process.stdin is not None
                told.callback(process.stdin.close)
                batch.append(process)
            with interruptible():
                for process in batch:
                    _await_ready(process)
            started += batch
        yield started


def _await_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        _, said = process.communicate()
        raise subprocess.CalledProcessError(process.returncode, process.args, stderr=said)


def _await_end(process: subprocess.Popen[bytes]) -> None:
    with process:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
