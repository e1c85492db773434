"""The time that an isolated command takes to start and to end."""

from __future__ import annotations

import statistics
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from overlaykit.bench.systems.processes import reap_on_exit
from overlaykit.bench.views.idle import IDLE, idle_processes
from overlaykit.bench.views.launchers import COLD, crun, launchers, ours, warm_subjects
from overlaykit.bench.workload import Context, Point, Subject, Unit, scaled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from overlaykit.bench.views.launchers import Launcher
    from overlaykit.bench.workload import Interruptible

_MANY: Final = 100
_ENDS: Final = 5

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

    def open(self, context: Context) -> AbstractContextManager[Sequence[Subject]]:
        more = (
            ours("--read-only", "--network", "none", name="overlaykit, read-only"),
            ours(name=COLD, OVERLAYKIT_SERVER="off"),
        )
        return warm_subjects(
            (launcher, partial(self._measure, launcher, context.interruptible))
            for launcher in (*launchers(), crun(context.directory), *more)
        )

    def _measure(self, launcher: Launcher, interruptible: Interruptible) -> float:
        first_output, end = _timed(launcher, interruptible)
        return first_output if self._until == "first" else end


def until_first_output(launcher: Launcher, interruptible: Interruptible) -> float:
    """The seconds until a command's first byte of output."""
    return _timed(launcher, interruptible)[0]


def _timed(launcher: Launcher, interruptible: Interruptible) -> tuple[float, float]:
    """The seconds until a command's first byte of output, and until its end."""
    command = launcher.command("echo", "here")
    with launcher.surroundings(), reap_on_exit():
        began = time.perf_counter()
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=launcher.environment,
        ) as process:
            with interruptible():
                assert process.stdout is not None
                first = process.stdout.read(1)
                first_output = time.perf_counter()
                _, errors = process.communicate()
            end = time.perf_counter()
    if process.returncode or not first:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)
    return first_output - began, end - began


class Many:
    """How much slower the last of many views starts, which run at once, than the first."""

    unit: Unit = "x"
    more_is_better = False
    warms = False
    most_rounds: int | None = 1
    point: Point | None = None

    def __init__(self, number: int) -> None:
        self.operations = number
        self.name = f"start/last of {number}"
        self.what = (
            f"start {number} commands one after another, which all stay: the time of the last {_ENDS}, of that of the "
            f"first (medians)"
        )

    def open(self, context: Context) -> AbstractContextManager[Sequence[Subject]]:
        return warm_subjects(
            (launcher, partial(self._measure, launcher, context.interruptible))
            for launcher in launchers()
        )

    def _measure(self, launcher: Launcher, interruptible: Interruptible) -> float:
        seconds: list[float] = []
        commands = [launcher.command(*IDLE)] * self.operations
        with idle_processes(
            commands, interruptible, environment=launcher.environment, seconds=seconds
        ):
            pass
        return statistics.median(seconds[-_ENDS:]) / statistics.median(seconds[:_ENDS])


def workloads(scale: float) -> list[Start | Many]:
    return [Start("first"), Start("end"), Many(scaled(_MANY, scale, least=2 * _ENDS))]
