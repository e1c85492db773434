"""The processor time of a fixed computation, with and without isolation."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from overlaykit.bench.systems.processes import reap_on_exit
from overlaykit.bench.views import computation
from overlaykit.bench.views.launchers import installed, warm_subjects
from overlaykit.bench.workload import Context, Point, Subject, Unit, scaled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from overlaykit.bench.views.launchers import Launcher
    from overlaykit.bench.workload import Interruptible

Work: TypeAlias = Literal["hash", "syscall"]

_NUMBERS: Final = {"hash": 500_000, "syscall": 1_000_000}
_WHAT: Final = {
    "hash": "processor time of one of {0:,} SHA-256 sums, each of the previous one",
    "syscall": "processor time of one of {0:,} cheap system calls",
}


class Processor:
    """The user and system time of a computation, without the start of its process."""

    unit: Unit = "s"
    more_is_better = False
    warms = False
    most_rounds: int | None = None
    point: Point | None = None

    def __init__(self, work: Work, scale: float) -> None:
        self._number = scaled(_NUMBERS[work], scale)
        self.operations = self._number
        self.name = f"processor/{work}"
        self.what = _WHAT[work].format(self._number)
        self._work = work

    def open(self, context: Context) -> AbstractContextManager[Sequence[Subject]]:
        return warm_subjects(
            (launcher, partial(self._measure, launcher, context.interruptible))
            for launcher in installed()
        )

    def _measure(self, launcher: Launcher, interruptible: Interruptible) -> float:
        return seconds_each(launcher, self._work, self._number, interruptible)


def seconds_each(
    launcher: Launcher, work: Work, number: int, interruptible: Interruptible
) -> float:
    """The processor time of one of `number` pieces of work, in seconds."""
    program = (sys.executable, "-I", "-S", computation.__file__, work, str(number))
    command = launcher.command(*program)
    with (
        reap_on_exit(),
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
        interruptible(),
    ):
        output, errors = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)
    return float(output) / number


def workloads(scale: float) -> list[Processor]:
    return [Processor("hash", scale), Processor("syscall", scale)]
