"""How long an isolated command takes to start, and to be over."""

from __future__ import annotations

import contextlib
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING, Literal

from overlaykit.bench.systems.processes import looked_after
from overlaykit.bench.views.launchers import launchers, ours
from overlaykit.bench.workload import Course, Entrant, Point, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from overlaykit.bench.views.launchers import Launcher
    from overlaykit.bench.workload import Interruptible

_WHAT = {
    "first": "start a command, until its first byte of output is here",
    "end": "start a command, until it and all around it has ended",
}


class Start:
    """A command that says one thing and ends; until it has said it, or until all is over."""

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
    def open(self, course: Course) -> Iterator[Sequence[Entrant]]:
        unwritten = ours("--read-only", "--network", "none", name="overlaykit, read-only")
        yield [
            Entrant(
                name=launcher.name,
                what=launcher.about,
                measure=partial(self._measure, launcher, course.interruptible),
            )
            for launcher in (*launchers(), unwritten)
        ]

    def _measure(self, launcher: Launcher, interruptible: Interruptible) -> float:
        command = launcher.command("echo", "here")
        with looked_after():
            began = time.perf_counter()
            with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as process:
                with interruptible():
                    assert process.stdout is not None
                    first = process.stdout.read(1)
                    heard = time.perf_counter()
                    _, said = process.communicate()
                over = time.perf_counter()
        if process.returncode or not first:
            raise subprocess.CalledProcessError(process.returncode, command, stderr=said)
        return (heard if self._until == "first" else over) - began


def workloads() -> list[Start]:
    return [Start("first"), Start("end")]
