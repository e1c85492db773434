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
from typing import Final, Protocol

from overlaykit.bench.choice import Plan
from overlaykit.bench.failure import FAILURES, reason
from overlaykit.bench.machine import look_at_machine
from overlaykit.bench.results import Cost, LeftOut, Machine, Report, Series
from overlaykit.bench.systems.system import Counts
from overlaykit.bench.systems.trial import try_out
from overlaykit.bench.workload import Course, Entrant, Interruptible, Workload
from overlaykit.rmtree import rmtree_path


class Watch(Protocol):
    """Somebody who watches. Called before each measurement; `done`: the part of the whole run that is behind it."""

    def __call__(self, workload: str, entrant: str, done: float) -> None: ...


_OnStep = Callable[[str, float], None]
"""Called before each measurement, with the entrant and the part of the workload that is behind it."""

_TOO_LATE: Final = "the run ended before"


class Race:
    """A run: to be run once, and asked for its report then, also where it ended early."""

    def __init__(self, plan: Plan, *, place: str) -> None:
        """Nothing happens yet. It takes place in a new directory below `place`, of which nothing is left."""
        self._plan = plan
        self._place = os.path.realpath(place)
        self._started = int(time.time())
        self._machine: Machine | None = None
        self._systems = {system.name: system.what for system in plan.systems}
        self._costs: list[Cost] = []
        self._left_out = list(plan.left_out)
        self._behind = 0
        """How many workloads are."""

    def run(
        self,
        *,
        interruptible: Interruptible = contextlib.nullcontext,
        watch: Watch = lambda workload, entrant, done: None,
    ) -> None:
        """`interruptible`: see `Course`.

        An entrant that fails is left out of that workload, with the reason, and the rest goes on.
        """
        plan = self._plan
        directory = tempfile.mkdtemp(prefix="overlaykit-bench-", dir=self._place)
        try:
            self._machine = look_at_machine(directory)
            systems, unable = try_out(plan.systems, directory)
            self._left_out += unable
            for number, workload in enumerate(plan.workloads):
                course = Course(
                    directory=os.path.join(directory, str(number)),
                    systems=systems,
                    interruptible=interruptible,
                )

                def on_step(entrant: str, done: float, *, name: str = workload.name) -> None:
                    watch(name, entrant, (self._behind + done) / len(plan.workloads))

                os.mkdir(course.directory)
                self._run(workload, course, on_step)
                self._behind += 1
                rmtree_path(course.directory)
        finally:
            rmtree_path(directory)

    def report(self) -> Report | None:
        """What was found; where it ended early, of the workloads behind it. None if nothing is."""
        plan = self._plan
        if self._machine is None or not self._behind:
            return None
        ahead = {
            one.name: LeftOut("", one.name, _TOO_LATE) for one in plan.workloads[self._behind :]
        }
        left_out = [one for one in self._left_out if one.workload not in ahead]
        return Report(
            machine=self._machine,
            started=self._started,
            baseline=plan.baseline,
            rounds=plan.rounds,
            systems=self._systems,
            workloads={workload.name: workload.what for workload in plan.workloads},
            costs=tuple(cost for cost in self._costs if cost.workload not in ahead),
            series=tuple(_series(plan.workloads[: self._behind])),
            left_out=(*left_out, *ahead.values()),
        )

    def _run(self, workload: Workload, course: Course, on_step: _OnStep) -> None:
        try:
            with workload.open(course) as entrants:
                for entrant in entrants:
                    self._systems.setdefault(entrant.name, entrant.what)
                self._run_rounds(workload, entrants, course, on_step)
        except FAILURES as error:  # for all of them
            _heed(course)
            self._leave_out("", workload, course, error)

    def _run_rounds(
        self, workload: Workload, entrants: Sequence[Entrant], course: Course, on_step: _OnStep
    ) -> None:
        uncounted = 1 if workload.warms else 0
        timed = uncounted + min(self._plan.rounds, workload.most_rounds or self._plan.rounds)
        rounds = timed + 1  # in the last, requests are counted
        values: defaultdict[str, list[float]] = defaultdict(list)
        counts: dict[str, Counts] = {}
        running = list(entrants)
        for round_ in range(rounds):
            for place, entrant in enumerate(random.sample(running, len(running))):
                on_step(entrant.name, (round_ + place / len(entrants)) / rounds)
                try:
                    if round_ < timed:
                        values[entrant.name].append(entrant.measure())
                    elif entrant.count is not None:
                        counts[entrant.name] = entrant.count()
                except FAILURES as error:
                    _heed(course)
                    running.remove(entrant)
                    self._leave_out(entrant.name, workload, course, error)
        self._costs += [
            Cost(
                workload=workload.name,
                system=entrant.name,
                unit=workload.unit,
                more_is_better=workload.more_is_better,
                operations=workload.operations,
                values=tuple(values[entrant.name][uncounted:]),
                requests=dict(counted.requests) if counted else None,
                written=counted.written if counted else None,
            )
            for entrant, counted in ((one, counts.get(one.name)) for one in running)
        ]

    def _leave_out(self, system: str, workload: Workload, course: Course, error: Exception) -> None:
        why = reason(error, course.directory)
        self._left_out.append(LeftOut(system=system, workload=workload.name, why=why))


def _heed(course: Course) -> None:
    """End here if that was asked for: a terminal interrupts our children too, who then fail."""
    with course.interruptible():
        pass


def _series(workloads: Sequence[Workload]) -> Iterator[Series]:
    """Those that differ in a size alone, together."""
    points: defaultdict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for workload in workloads:
        if workload.point is not None:
            point = workload.point
            points[point.series, point.axis].append((point.size, workload.name))
    for (name, axis), found in points.items():
        yield Series(name=name, axis=axis, points=tuple(sorted(found)))
