"""The time that an isolated command takes to start and to end."""

from __future__ import annotations

import contextlib
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING, Literal

from overlaykit.bench.systems.processes import reap_on_exit
from overlaykit.bench.views.launchers import launchers, ours
from overlaykit.bench.workload import Context, Point, Subject, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from overlaykit.bench.views.launchers import Launcher
    from overlaykit.bench.workload import Interruptible

_WHAT = {
    "first": "start a command, until its first byte of output",
    "end": "start a command, until it and its launcher have ended",
}


class Start:
    """The time to the first output, or to the end, of a command that prints a line."""

    unit: Unit = "s"
    more_is_better = False
    operations = 1
    warms = True
    most_rounds: int | None = None
    point: Point | None = None

    def __init__(self, until: Literal["first", "end"]) -> None:
        self.name = f"start/{until}"
        self.what = _WHAT[until]
        self._until = until

    @contextlib.contextmanager
    def open(self, context: Context) -> Iterator[Sequence[Subject]]:
        unwritten = ours("--read-only", "--network", "none", name="overlaykit, read-only")
        yield [
            Subject(
                name=launcher.name,
                what=launcher.about,
                measure=partial(self._measure, launcher, context.interruptible),
            )
            for launcher in (*launchers(), unwritten)
        ]

    def _measure(self, launcher: Launcher, interruptible: Interruptible) -> float:
        command = launcher.command("echo", "here")
        with reap_on_exit():
            began = time.perf_counter()
            with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as process:
                with interruptible():
                    assert process.stdout is not None
                    first = process.stdout.read(1)
                    first_output = time.perf_counter()
                    _, errors = process.communicate()
                end = time.perf_counter()
        if process.returncode or not first:
            raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)
        return (first_output if self._until == "first" else end) - began


def workloads() -> list[Start]:
    return [Start("first"), Start("end")]
