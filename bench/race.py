"""The race: every entrant of a workload once in each round, in an order that is drawn anew each time.

What else the machine does meanwhile hits all of them alike, so that their ratios mean something where times do not.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.machine import look_at_machine
from bench.results import Cost, LeftOut, Report, Series
from bench.systems import System
from bench.workload import Course, Entrant, Interruptible, Sample, Unfit, Workload
from overlaykit.discard import discard_path
from overlaykit.errors import Error


class Watch(Protocol):
    """Somebody who watches. Called before each measurement; `done`: the part of the whole run that is behind it."""

    def __call__(self, workload: str, entrant: str, done: float) -> None: ...


@dataclass(slots=True)
class _Findings:
    """What has been found so far."""

    costs: list[Cost] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    systems: dict[str, str] = field(default_factory=dict)


def race(
    workloads: Sequence[Workload],
    systems: Sequence[System],
    *,
    directory: str,
    rounds: int,
    baseline: str,
    left_out: Sequence[LeftOut] = (),
    interruptible: Interruptible,
    watch: Watch,
) -> Report:
    """Run all of it. `directory`: an empty one, on the file system that is measured; `left_out`: what is known to be.

    An entrant that fails is left out of that workload, with the reason, and the rest goes on.
    """
    started = int(time.time())
    found = _Findings(left_out=list(left_out))
    found.systems.update({system.name: system.what for system in systems})
    for number, workload in enumerate(workloads):
        own = os.path.join(directory, str(number))
        os.mkdir(own)

        def on_step(
            entrant: str, done: float, *, behind: int = number, name: str = workload.name
        ) -> None:
            watch(name, entrant, (behind + done) / len(workloads))

        try:
            course = Course(directory=own, systems=systems, interruptible=interruptible)
            _run(workload, course, rounds, found, on_step)
        except _FAILURES as error:
            found.left_out.append(
                LeftOut(system="", workload=workload.name, why=_reason(error, own))
            )
        finally:
            discard_path(own)
    return Report(
        machine=look_at_machine(directory),
        started=started,
        baseline=baseline,
        rounds=rounds,
        systems=found.systems,
        workloads={workload.name: workload.what for workload in workloads},
        costs=tuple(found.costs),
        series=tuple(_series(workloads)),
        left_out=tuple(found.left_out),
    )


_FAILURES = (Unfit, OSError, subprocess.CalledProcessError, Error)


def _run(
    workload: Workload,
    course: Course,
    rounds: int,
    found: _Findings,
    on_step: Callable[[str, float], None],
) -> None:
    counted = min(rounds, workload.most_rounds or rounds)
    uncounted = 1 if workload.warms else 0
    samples: defaultdict[str, list[Sample]] = defaultdict(list)
    with workload.open(course) as entrants:
        running = list(entrants)
        for entrant in entrants:
            found.systems.setdefault(entrant.name, entrant.what)
        for round_ in range(uncounted + counted):
            for place, entrant in enumerate(random.sample(running, len(running))):
                on_step(entrant.name, (round_ + place / len(running)) / (uncounted + counted))
                try:
                    sample = entrant.measure()
                except _FAILURES as error:
                    running.remove(entrant)
                    why = _reason(error, course.directory)
                    found.left_out.append(LeftOut(entrant.name, workload.name, why))
                else:
                    if round_ >= uncounted:
                        samples[entrant.name].append(sample)
    found.costs += [_cost(workload, entrant, samples[entrant.name]) for entrant in running]


def _cost(workload: Workload, entrant: Entrant, samples: Sequence[Sample]) -> Cost:
    requests = samples[-1].requests
    return Cost(
        workload=workload.name,
        system=entrant.name,
        unit=workload.unit,
        more_is_better=workload.more_is_better,
        operations=workload.operations,
        values=tuple(sample.value for sample in samples),
        requests=None if requests is None else dict(requests),
    )


def _reason(error: Exception, directory: str) -> str:
    """In one line, without the names of directories that are gone by the time it is read."""
    if isinstance(error, subprocess.CalledProcessError):
        program = os.path.basename(error.cmd[0])
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        text = f"{program}: {said[-1]}" if said else f"{program} ended with {error.returncode}"
    elif isinstance(error, OSError):
        text = error.strerror or str(error)
    else:
        text = str(error)
    return text.replace(directory + "/", "")


def _series(workloads: Sequence[Workload]) -> Iterator[Series]:
    """Those that differ in a size alone, together."""
    points: defaultdict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for workload in workloads:
        if workload.point is not None:
            point = workload.point
            points[point.series, point.axis].append((point.size, workload.name))
    for (name, axis), found in points.items():
        yield Series(name=name, axis=axis, points=tuple(sorted(found)))
