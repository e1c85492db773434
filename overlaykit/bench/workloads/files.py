"""Workloads on files: each round uses a fresh tree of each system, over shared layers."""

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
from overlaykit.bench.workload import Context, Point, Subject, Unfit, Unit

_CACHES: Final = "/proc/sys/vm/drop_caches"


class FileWorkload(ABC):
    """The base of workloads on files; a subclass makes the files and does the work.

    Attributes beside those of `workload.Workload`:
      written_to: the workload changes the tree, so each round needs a new one.
      cold: all caches are empty at the start; needs root.
      programs: the programs it runs, each of a Debian package of the same name.
      lowers: the number of lower layers.
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
        """Make the files of the lowers, top first."""

    def prepare(self, root: str) -> None:  # noqa: B027  # a hook
        """Prepare the tree before the timed part; not counted."""

    @abstractmethod
    def run(self, root: str) -> float | None:
        """The timed part. Returns: the cost of one operation in `unit`, or None for its time."""

    @contextlib.contextmanager
    def open(self, context: Context) -> Iterator[Sequence[Subject]]:
        self._check()
        layers = os.path.join(context.directory, "layers")
        os.mkdir(layers)
        lowers = tuple(os.path.join(layers, str(number)) for number in range(self.lowers))
        with context.interruptible():
            for lower in lowers:
                os.mkdir(lower)
            self.make(lowers)
            os.sync()
        with contextlib.ExitStack() as opened:
            yield [self._subject(system, lowers, context, opened) for system in context.systems]

    def _check(self) -> None:
        for program in self.programs:
            if shutil.which(program) is None:
                raise Unfit(f"there is no {program}: apt-get install {program}")
        if self.cold and not os.access(_CACHES, os.W_OK):
            raise Unfit("emptying the machine's caches needs root")

    def _subject(
        self,
        system: System,
        lowers: tuple[str, ...],
        context: Context,
        opened: contextlib.ExitStack,
    ) -> Subject:
        shows: list[Show] = []

        @contextlib.contextmanager
        def fresh_tree() -> Iterator[Tree]:
            if not shows:  # here, so that a failure concerns this system alone
                directory = tempfile.mkdtemp(prefix=f"{system.name}-", dir=context.directory)
                layers = Layers(lowers=lowers, directory=directory, written_to=self.written_to)
                shows.append(opened.enter_context(system.over(layers)))
            with shows[0]() as tree, context.interruptible():
                self.prepare(tree.path)
                if self.written_to or self.cold:
                    os.sync()  # no system pays for the writeback of another
                if self.cold:
                    _empty_caches()
                yield tree

        def measure() -> float:
            with fresh_tree() as tree:
                began = time.perf_counter()
                value = self.run(tree.path)
                if value is None:
                    value = (time.perf_counter() - began) / self.operations
                return value

        def count() -> Counts:
            with fresh_tree() as tree:
                before = tree.counts()
                self.run(tree.path)
                after = tree.counts()
            assert before is not None
            assert after is not None
            return Counts(
                Counter(after.requests) - Counter(before.requests),
                Counter(after.native) - Counter(before.native),
                after.written - before.written,
            )

        return Subject(
            name=system.name,
            what=system.what,
            measure=measure,
            count=count if system.counts else None,
        )


State = Literal["cold", "first", "second", "warm"]
"""The state of the caches at a visit.

cold: all empty. first: the mount's are empty, the machine's full, which shows the system's own cost of a first visit.
second: after one visit. warm: after two visits, so that the access times no longer change.
"""

_VISITS: Final[dict[State, int]] = {"cold": 0, "first": 0, "second": 1, "warm": 2}

_VISITED: Final[dict[State, str]] = {
    "cold": "on a fresh mount, with every cache of the machine empty",
    "first": "for the first time on a fresh mount",
    "second": "for the second time",
    "warm": "again and again",
}


class Visit(FileWorkload):
    """A workload that only reads, in one state of the caches."""

    def __init__(self, group: str, state: State, what: str) -> None:
        self.name = f"{group}/{state}"
        self.what = f"{what}, {_VISITED[state]}"
        self.cold = state == "cold"
        self._visits = _VISITS[state]

    def prepare(self, root: str) -> None:
        for _ in range(self._visits):
            self.run(root)


def _empty_caches() -> None:
    """Drop clean caches. Source: Documentation/admin-guide/sysctl/vm.rst, drop_caches."""
    with open(_CACHES, "w", encoding="ascii") as file:
        file.write("3")
