"""A workload, its subjects, and the cost of one round.

The subjects of a workload on files are systems (`workloads.files`); those of a workload on views are launchers. The
runner treats them alike: it opens a workload and measures its subjects. `workloads.workloads(scale)` and
`views.workloads(scale)` list the workloads; a full run has the scale 1.0, a quick one less.
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
    """A subject cannot be measured. The text is the reason for the user: no capital, no full stop, with a way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A system or launcher that a workload measures. `what`: its command, or a description.

    `measure` runs one round from a fresh state and returns the cost of one operation, in the workload's unit. `count`
    runs one more round untimed, because reading a daemon's counters disturbs it, and returns its requests; None where
    the system has no counters. Both clean up before they return or raise.

    Raises: Unfit, OSError, CalledProcessError, overlaykit's Error: the subject is left out of the workload.
    """

    name: str
    what: str
    measure: Callable[[], float]
    count: Callable[[], Counts] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The surroundings of a workload.

    `directory`: an empty directory on the file system that is measured, removed afterwards with its contents.
    `systems`: the systems of the run. `interruptible`: a context manager for long steps that can be undone: inside,
    SIGINT and SIGTERM end the run by an exception; outside, they stay pending.
    """

    directory: str
    systems: Sequence[System]
    interruptible: Interruptible = contextlib.nullcontext


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A workload's point in a series (`results.Series`)."""

    series: str
    axis: str
    size: int


class Workload(Protocol):
    """A piece of work and its measurement.

    `name`: GROUP/CASE; `what`: a description of one line; `operations`: the operations of one round; `warms`: the first
    round fills caches and is not counted; `most_rounds`: an upper bound for slow or steady workloads (None: no bound).
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

    def open(self, context: Context) -> AbstractContextManager[Sequence[Subject]]:
        """Prepare what all rounds share, and clean it up at the end. Returns: the subjects in the order of the report.

        Raises: Unfit if no subject can be measured: a program is missing, or the workload needs root.
        """
        ...


def scaled(number: int, scale: float, *, least: int = 1) -> int:
    """A number of a full run, scaled down."""
    return max(least, round(number * scale))
