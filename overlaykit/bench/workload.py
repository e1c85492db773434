"""What the race runs: a workload, who takes part in it, and what one round of it costs.

A workload on files is run on what each system shows (`workloads.files`); one on views has contenders of its own, for
example other launchers. To the race they are the same: something to open, with entrants that can be measured.
`workloads.workloads(scale)` and `views.workloads(scale)` list them: a full run has the scale 1.0, others less.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from overlaykit.bench.systems import System
    from overlaykit.bench.systems.system import Counts

Unit = Literal["s", "B/s", "1/s", "B", "x"]
"""As in `results.Cost.unit`."""

Interruptible = Callable[[], AbstractContextManager[None]]


class Unfit(Exception):
    """An entrant cannot take part. The text is the reason, as it is shown: no capital, no full stop, with a way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """One that takes part in a workload. `name`: the system's, or the contender's; `what`: its command, or what it is.

    `measure` is one round, from a fresh start: what one operation cost, in the workload's unit. `count` does the same
    once more, untimed (to ask a daemon for its counters is to disturb it): what it made the system do; None where
    nobody counts them. Nothing is left when they return or raise. They raise Unfit, OSError, CalledProcessError or
    overlaykit's Error where the workload fails: it is then left out from there on.
    """

    name: str
    what: str
    measure: Callable[[], float]
    count: Callable[[], Counts] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a workload is given.

    `directory`: an empty one of its own, on the file system that is measured; removed afterwards, whatever is in it.
    `systems`: those that take part in the run. `interruptible`: a context manager, to be entered where nothing is half
    made and it may take a while: in it, SIGINT and SIGTERM end the run by an exception; elsewhere they wait until then.
    """

    directory: str
    systems: Sequence[System]
    interruptible: Interruptible = contextlib.nullcontext


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A workload's place among those that differ from it in a size alone (`results.Series`)."""

    series: str
    axis: str
    size: int


class Workload(Protocol):
    """What is done, and how it is measured.

    `name`: short, as GROUP/CASE; `what`: what it does, in one line; `operations`: how many one round consists of, of
    which what is measured is one's share; `warms`: the first round warms what the others find warm, and does not count;
    `most_rounds`: fewer than were asked for suffice, for it is slow or hardly varies (None: all).
    """

    @property
    def name(self) -> str: ...

    @property
    def what(self) -> str: ...

    @property
    def unit(self) -> Unit: ...

    @property
    def more_is_better(self) -> bool: ...

    @property
    def operations(self) -> int: ...

    @property
    def warms(self) -> bool: ...

    @property
    def most_rounds(self) -> int | None: ...

    @property
    def point(self) -> Point | None: ...

    def open(self, course: Course) -> AbstractContextManager[Sequence[Entrant]]:
        """Make what all entrants and rounds share; the entrants, in the order they are shown. Clears up at the end.

        Raises Unfit if nobody can take part: a program is missing, or it takes root.
        """
        ...


def scaled(number: int, scale: float, *, least: int = 1) -> int:
    """How many there are of what a full run has `number` of."""
    return max(least, round(number * scale))
