"""The race: every entrant of a workload once in each round, in an order that is drawn anew each time.

What else the machine does meanwhile hits all of them alike, so that their ratios mean something where times do not.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.choice import Plan
from bench.failure import FAILURES, reason
from bench.machine import look_at_machine
from bench.results import Cost, LeftOut, Report, Series
from bench.systems.trial import try_out
from bench.workload import Course, Entrant, Interruptible, Workload
from overlaykit.discard import discard_path


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
    plan: Plan,
    *,
    place: str,
    interruptible: Interruptible = contextlib.nullcontext,
    watch: Watch = lambda workload, entrant, done: None,
) -> Report:
    """Run all of it in a new directory below `place`, of which nothing is left. `interruptible`: see `Course`.

    An entrant that fails is left out of that workload, with the reason, and the rest goes on.
    """
    started = int(time.time())
    found = _Findings(left_out=list(plan.left_out))
    found.systems.update({system.name: system.what for system in plan.systems})
    directory = tempfile.mkdtemp(prefix="overlaykit-bench-", dir=os.path.realpath(place))
    try:
        machine = look_at_machine(directory)
        systems, unable = try_out(plan.systems, directory)
        found.left_out += unable
        for number, workload in enumerate(plan.workloads):
            course = Course(
                directory=os.path.join(directory, str(number)),
                systems=systems,
                interruptible=interruptible,
            )

            def on_step(
                entrant: str, done: float, *, behind: int = number, name: str = workload.name
            ) -> None:
                watch(name, entrant, (behind + done) / len(plan.workloads))

            os.mkdir(course.directory)
            _run(workload, course, plan.rounds, found, on_step)
            discard_path(course.directory)
    finally:
        discard_path(directory)
    return Report(
        machine=machine,
        started=started,
        baseline=plan.baseline,
        rounds=plan.rounds,
        systems=found.systems,
        workloads={workload.name: workload.what for workload in plan.workloads},
        costs=tuple(found.costs),
        series=tuple(_series(plan.workloads)),
        left_out=tuple(found.left_out),
    )


def _run(
    workload: Workload,
    course: Course,
    rounds: int,
    found: _Findings,
    on_step: Callable[[str, float], None],
) -> None:
    try:
        with workload.open(course) as entrants:
            found.systems.update(
                {one.name: one.what for one in entrants if one.name not in found.systems}
            )
            _run_rounds(workload, entrants, course, rounds, found, on_step)
    except FAILURES as error:  # for all of them
        why = reason(error, course.directory)
        found.left_out.append(LeftOut(system="", workload=workload.name, why=why))


def _run_rounds(
    workload: Workload,
    entrants: Sequence[Entrant],
    course: Course,
    rounds: int,
    found: _Findings,
    on_step: Callable[[str, float], None],
) -> None:
    counted = min(rounds, workload.most_rounds or rounds)
    uncounted = 1 if workload.warms else 0
    rounds_in_all = uncounted + counted + 1  # in the last, requests are counted
    values: defaultdict[str, list[float]] = defaultdict(list)
    requests: dict[str, dict[str, int]] = {}
    running = list(entrants)
    for round_ in range(rounds_in_all):
        for place, entrant in enumerate(random.sample(running, len(running))):
            on_step(entrant.name, (round_ + place / len(entrants)) / rounds_in_all)
            try:
                if round_ < uncounted + counted:
                    values[entrant.name].append(entrant.measure())
                elif entrant.count is not None:
                    requests[entrant.name] = dict(entrant.count())
            except FAILURES as error:
                running.remove(entrant)
                why = reason(error, course.directory)
                found.left_out.append(LeftOut(entrant.name, workload.name, why))
    found.costs += [
        Cost(
            workload=workload.name,
            system=entrant.name,
            unit=workload.unit,
            more_is_better=workload.more_is_better,
            operations=workload.operations,
            values=tuple(values[entrant.name][uncounted:]),
            requests=requests.get(entrant.name),
        )
        for entrant in running
    ]


def _series(workloads: Sequence[Workload]) -> Iterator[Series]:
    """Those that differ in a size alone, together."""
    points: defaultdict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for workload in workloads:
        if workload.point is not None:
            point = workload.point
            points[point.series, point.axis].append((point.size, workload.name))
    for (name, axis), found in points.items():
        yield Series(name=name, axis=axis, points=tuple(sorted(found)))
