"""What isolation costs the processor: a fixed computation inside, beside the same outside."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from overlaykit.bench.systems.processes import looked_after
from overlaykit.bench.views import computation
from overlaykit.bench.views.launchers import installed
from overlaykit.bench.workload import Course, Entrant, Point, Unit, scaled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from overlaykit.bench.views.launchers import Launcher
    from overlaykit.bench.workload import Interruptible

_NUMBERS: Final = {"hash": 500_000, "syscall": 1_000_000}
_WHAT: Final = {
    "hash": "processor time of one of {0:,} SHA-256 sums, each of the one before",
    "syscall": "processor time of one of {0:,} system calls that do next to nothing",
}


class Processor:
    """User and system time that a process takes for its work, without what it took to start it."""

    unit: Unit = "s"
    more_is_better = False
    warms = False
    most_rounds: int | None = None
    point: Point | None = None

    def __init__(self, work: Literal["hash", "syscall"], scale: float) -> None:
        self._number = scaled(_NUMBERS[work], scale)
        self.operations = self._number
        self.name = f"processor/{work}"
        self.what = _WHAT[work].format(self._number)
        self._work = work

    @contextlib.contextmanager
    def open(self, course: Course) -> Iterator[Sequence[Entrant]]:
        yield [
            Entrant(
                name=launcher.name,
                what=launcher.about,
                measure=partial(self._measure, launcher, course.interruptible),
            )
            for launcher in installed()
        ]

    def _measure(self, launcher: Launcher, interruptible: Interruptible) -> float:
        program = (sys.executable, "-I", "-S", computation.__file__, self._work, str(self._number))
        command = launcher.command(*program)
        with (
            looked_after(),
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as process,
            interruptible(),
        ):
            answer, said = process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, stderr=said)
        return float(answer) / self.operations


def workloads(scale: float) -> list[Processor]:
    return [Processor("hash", scale), Processor("syscall", scale)]
