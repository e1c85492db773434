"""What the race runs: a workload, who takes part in it, and what one round of it gives.

A workload on files is run on the mount of each system (`workloads.files`); one on views has contenders of its own, for
example other launchers. To the race they are the same: something to open, with entrants that can be measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from bench.systems import System

Unit = Literal["s", "B/s", "1/s", "B", "x"]
"""As in `results.Cost.unit`."""


class Unfit(Exception):
    """An entrant cannot take part. The text is the reason, as it is shown: no capital, no full stop, with a way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one round found. `value`: in the workload's unit, for one operation.

    `requests`: the FUSE requests of the timed part, by kind; None where nobody counts them.
    """

    value: float
    requests: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """One that takes part in a workload. `name`: the system's, or the contender's; `what`: its command, or what it is.

    `measure` is one round, from a fresh start; nothing of it is left when it returns or raises. It raises Unfit, OSError
    or CalledProcessError where the workload fails: then it is left out from there on, for that reason.
    """

    name: str
    what: str
    measure: Callable[[], Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a workload is given.

    `directory`: an empty one of its own, on the file system that is measured; removed afterwards with all that is in it.
    `systems`: those that take part in the run. `interruptible`: a context manager, to be entered where nothing is half
    made and it may take a while: inside, SIGINT and SIGTERM end the run by an exception; elsewhere they wait until then.
    """

    directory: str
    systems: Sequence[System]
    interruptible: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A workload's place among those that differ from it in a size alone (`results.Series`)."""

    series: str
    axis: str
    size: int


class Workload(Protocol):
    """What is done, and how it is measured.

    `name`: short; `what`: what it does, in one line; `operations`: how many one round consists of, of which `value` is
    one's share; `most_rounds`: fewer than were asked for suffice, for it is slow or hardly varies (None: all).
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
    def most_rounds(self) -> int | None: ...

    @property
    def point(self) -> Point | None: ...

    def open(self, course: Course) -> AbstractContextManager[Sequence[Entrant]]:
        """Make what all entrants and rounds share; the entrants, in the order they are shown. Clears up at the end.

        Raises Unfit if nobody can take part: a program is missing, or it takes root.
        """
        ...
