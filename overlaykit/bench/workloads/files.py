"""A workload on files: run in each round on a fresh tree of each system, over layers that all of them share."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from overlaykit.bench.systems import Layers, Show, System, Tree
from overlaykit.bench.systems.system import Counts
from overlaykit.bench.workload import Course, Entrant, Point, Unfit, Unit

_CACHES: Final = "/proc/sys/vm/drop_caches"


class FileWorkload(ABC):
    """What is the same for all; a subclass says what is done, to which files.

    Attributes beside those of `workload.Workload`:
      written_to: the tree is changed, so that nobody's can serve a second round.
      cold: neither the system nor the machine may remember anything; takes root.
      programs: what it runs, each of a Debian package of the same name.
      lowers: how many layers its files are in.
    """

    name: str
    what: str
    unit: Unit = "s"
    more_is_better = False
    operations: int
    warms = False
    most_rounds: int | None = None
    point: Point | None = None
    written_to: bool = False
    cold: bool = False
    programs: tuple[str, ...] = ()
    lowers: int = 1

    @abstractmethod
    def make(self, lowers: Sequence[str]) -> None:
        """Fill the layers, top first."""

    def prepare(self, root: str) -> None:  # noqa: B027  # most have nothing to prepare
        """On the tree, before the timed part; what it does is not counted."""

    @abstractmethod
    def run(self, root: str) -> float | None:
        """The timed part; what one operation cost, in `unit`, where that is not simply the time it took."""

    @contextlib.contextmanager
    def open(self, course: Course) -> Iterator[Sequence[Entrant]]:
        self._check()
        layers = os.path.join(course.directory, "layers")
        os.mkdir(layers)
        lowers = tuple(os.path.join(layers, str(number)) for number in range(self.lowers))
        with course.interruptible():
            for lower in lowers:
                os.mkdir(lower)
            self.make(lowers)
            os.sync()
        with contextlib.ExitStack() as opened:
            yield [self._entrant(system, lowers, course, opened) for system in course.systems]

    def _check(self) -> None:
        for program in self.programs:
            if shutil.which(program) is None:
                raise Unfit(f"there is no {program}: apt-get install {program}")
        if self.cold and not os.access(_CACHES, os.W_OK):
            raise Unfit("to empty the machine's caches takes root")

    def _entrant(
        self,
        system: System,
        lowers: tuple[str, ...],
        course: Course,
        opened: contextlib.ExitStack,
    ) -> Entrant:
        shows: list[Show] = []

        @contextlib.contextmanager
        def shown() -> Iterator[Tree]:
            if not shows:  # here: should it fail, it fails for this system alone
                directory = tempfile.mkdtemp(prefix=f"{system.name}-", dir=course.directory)
                layers = Layers(lowers=lowers, directory=directory, written_to=self.written_to)
                shows.append(opened.enter_context(system.over(layers)))
            with shows[0]() as tree, course.interruptible():
                self.prepare(tree.path)
                if self.written_to or self.cold:
                    os.sync()  # nobody pays for what others have left to be written
                if self.cold:
                    _empty_caches()
                yield tree

        def measure() -> float:
            with shown() as tree:
                began = time.perf_counter()
                value = self.run(tree.path)
                if value is None:
                    value = (time.perf_counter() - began) / self.operations
                return value

        def count() -> Counts:
            with shown() as tree:
                before = tree.counts()
                self.run(tree.path)
                after = tree.counts()
            assert before is not None
            assert after is not None
            requests = Counter(after.requests) - Counter(before.requests)
            return Counts(requests, after.written - before.written)

        return Entrant(
            name=system.name,
            what=system.what,
            measure=measure,
            count=count if system.counts else None,
        )


State = Literal["cold", "first", "second", "warm"]
"""How much is remembered of the files when they are visited.

cold: nothing, by anybody. first: by the mount nothing, by the machine all: the system's own cost of a first visit.
second: they were visited once the same way. warm: twice, so that what visits change (times of access) has settled.
"""

_VISITS: Final[dict[State, int]] = {"cold": 0, "first": 0, "second": 1, "warm": 2}

_VISITED: Final[dict[State, str]] = {
    "cold": "on a fresh mount, with every cache of the machine empty",
    "first": "for the first time on a fresh mount",
    "second": "for the second time",
    "warm": "again and again",
}


class Visit(FileWorkload):
    """A workload that changes nothing, and costs less where it has been before."""

    def __init__(self, group: str, state: State, what: str) -> None:
        self.name = f"{group}/{state}"
        self.what = f"{what}, {_VISITED[state]}"
        self.cold = state == "cold"
        self._visits = _VISITS[state]

    def prepare(self, root: str) -> None:
        for _ in range(self._visits):
            self.run(root)


def _empty_caches() -> None:
    """Source: Documentation/admin-guide/sysctl/vm.rst, drop_caches, which spares what is not written back."""
    with open(_CACHES, "w", encoding="ascii") as file:
        file.write("3")
