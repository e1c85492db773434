"""Run a plan in rounds: each round measures every subject of a workload once, in random order.

Other load on the machine then affects all subjects alike, so their ratios stay meaningful where times do not.
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

from overlaykit.bench.failure import FAILURES, reason
from overlaykit.bench.machine import describe_machine
from overlaykit.bench.results import Cost, LeftOut, Machine, Report, Series
from overlaykit.bench.selection import Plan
from overlaykit.bench.systems.system import Counts
from overlaykit.bench.systems.trial import try_out
from overlaykit.bench.workload import Context, Interruptible, Subject, Workload
from overlaykit.rmtree import rmtree_path


class OnProgress(Protocol):
    """A callback before each measurement. `done`: the finished part of the run, from 0 to 1."""

    def __call__(self, workload: str, subject: str, done: float) -> None: ...


_OnStep = Callable[[str, float], None]
"""A callback before each measurement, with the subject and the finished part of the workload."""

_INTERRUPTED: Final = "the run ended before"


class Runner:
    """One run of a plan. `report` works after `run`, also after one that ended early."""

    def __init__(self, plan: Plan, *, parent: str) -> None:
        """`run` works in a new directory below `parent` and removes it."""
        self._plan = plan
        self._parent = os.path.realpath(parent)
        self._started = int(time.time())
        self._machine: Machine | None = None
        self._systems = {system.name: system.what for system in plan.systems}
        self._costs: list[Cost] = []
        self._left_out = list(plan.left_out)
        self._finished = 0
        """The number of finished workloads."""

    def run(
        self,
        *,
        interruptible: Interruptible = contextlib.nullcontext,
        on_progress: OnProgress = lambda workload, subject, done: None,
    ) -> None:
        """Measure. `interruptible`: see `Context`.

        A subject that fails is left out of that workload, with the reason; the run continues.
        """
        plan = self._plan
        directory = tempfile.mkdtemp(prefix="overlaykit-bench-", dir=self._parent)
        try:
            self._machine = describe_machine(directory)
            systems, unable = try_out(plan.systems, directory)
            self._left_out += unable
            for number, workload in enumerate(plan.workloads):
                context = Context(
                    directory=os.path.join(directory, str(number)),
                    systems=systems,
                    interruptible=interruptible,
                )

                def on_step(subject: str, done: float, *, name: str = workload.name) -> None:
                    on_progress(name, subject, (self._finished + done) / len(plan.workloads))

                os.mkdir(context.directory)
                self._run(workload, context, on_step)
                self._finished += 1
                rmtree_path(context.directory)
        finally:
            rmtree_path(directory)

    def report(self) -> Report | None:
        """The results of the finished workloads; None if there are none."""
        plan = self._plan
        if self._machine is None or not self._finished:
            return None
        unfinished = {
            one.name: LeftOut("", one.name, _INTERRUPTED)
            for one in plan.workloads[self._finished :]
        }
        left_out = [one for one in self._left_out if one.workload not in unfinished]
        return Report(
            machine=self._machine,
            started=self._started,
            baseline=plan.baseline,
            rounds=plan.rounds,
            systems=self._systems,
            workloads={workload.name: workload.what for workload in plan.workloads},
            costs=tuple(cost for cost in self._costs if cost.workload not in unfinished),
            series=tuple(_series(plan.workloads[: self._finished])),
            left_out=(*left_out, *unfinished.values()),
        )

    def _run(self, workload: Workload, context: Context, on_step: _OnStep) -> None:
        try:
            with workload.open(context) as subjects:
                for subject in subjects:
                    self._systems.setdefault(subject.name, subject.what)
                self._run_rounds(workload, subjects, context, on_step)
        except FAILURES as error:  # of all subjects
            _end_if_interrupted(context)
            self._leave_out("", workload, context, error)

    def _run_rounds(
        self, workload: Workload, subjects: Sequence[Subject], context: Context, on_step: _OnStep
    ) -> None:
        warmup = 1 if workload.warms else 0
        timed = warmup + min(self._plan.rounds, workload.most_rounds or self._plan.rounds)
        rounds = timed + 1  # the last one counts requests
        values: defaultdict[str, list[float]] = defaultdict(list)
        counts: dict[str, Counts] = {}
        running = list(subjects)
        for round_ in range(rounds):
            for position, subject in enumerate(random.sample(running, len(running))):
                on_step(subject.name, (round_ + position / len(subjects)) / rounds)
                try:
                    if round_ < timed:
                        values[subject.name].append(subject.measure())
                    elif subject.count is not None:
                        counts[subject.name] = subject.count()
                except FAILURES as error:
                    _end_if_interrupted(context)
                    running.remove(subject)
                    self._leave_out(subject.name, workload, context, error)
        self._costs += [
            Cost(
                workload=workload.name,
                system=subject.name,
                unit=workload.unit,
                more_is_better=workload.more_is_better,
                operations=workload.operations,
                values=tuple(values[subject.name][warmup:]),
                requests=dict(counted.requests) if counted else None,
                native=dict(counted.native) if counted else None,
                written=counted.written if counted else None,
            )
            for subject, counted in ((one, counts.get(one.name)) for one in running)
        ]

    def _leave_out(
        self, system: str, workload: Workload, context: Context, error: Exception
    ) -> None:
        why = reason(error, context.directory)
        self._left_out.append(LeftOut(system=system, workload=workload.name, why=why))


def _end_if_interrupted(context: Context) -> None:
    """Let a pending signal end the run: a terminal also interrupts the children, which then fail."""
    with context.interruptible():
        pass


def _series(workloads: Sequence[Workload]) -> Iterator[Series]:
    """Group the workloads that differ in a size alone."""
    points: defaultdict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for workload in workloads:
        if workload.point is not None:
            point = workload.point
            points[point.series, point.axis].append((point.size, workload.name))
    for (name, axis), found in points.items():
        yield Series(name=name, axis=axis, points=tuple(sorted(found)))
