"""Names and directories: the work of `stat`, `ls` and `find`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from overlaykit.bench.workload import Unfit, scaled
from overlaykit.bench.workloads import material
from overlaykit.bench.workloads.files import State, Visit


class Stat(Visit):
    """Stat existing files."""

    def __init__(self, state: State, scale: float) -> None:
        self.operations = scaled(10_000, scale)
        super().__init__("stat", state, f"stat each of {self.operations:,} files")
        self._names = material.spread(self.operations)

    def make(self, lowers: Sequence[str]) -> None:
        material.write(lowers[0], self._names)

    def run(self, root: str) -> None:
        for name in self._names:
            os.stat(f"{root}/{name}")


class Missing(Visit):
    """Look up missing names, as searches along a path do."""

    def __init__(self, state: State, scale: float) -> None:
        self.operations = scaled(10_000, scale)
        super().__init__("missing", state, f"ask for {self.operations:,} names that are missing")
        self._names = [f"{name}.missing" for name in material.spread(self.operations)]

    def make(self, lowers: Sequence[str]) -> None:
        for directory in material.directories(self._names):
            os.makedirs(os.path.join(lowers[0], directory))

    def run(self, root: str) -> None:
        for name in self._names:
            if os.access(f"{root}/{name}", os.F_OK):
                raise Unfit(f"has a file {name}, which is in no layer")


class Scan(Visit):
    """Walk a tree, as `find -ls` does."""

    def __init__(self, state: State, scale: float) -> None:
        self._names = material.spread(scaled(10_000, scale))
        self.operations = len(self._names)
        super().__init__(
            "scan", state, f"walk a tree of {self.operations:,} files with a stat each"
        )

    def make(self, lowers: Sequence[str]) -> None:
        material.write(lowers[0], self._names)

    def run(self, root: str) -> None:
        seen = _scan(root)
        if seen != self.operations:
            raise Unfit(f"shows {seen:,} of {self.operations:,} files")


def _scan(root: str) -> int:
    """The number of files below `root`."""
    files = 0
    to_visit = [root]
    while to_visit:
        with os.scandir(to_visit.pop()) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    to_visit.append(entry.path)
                else:
                    files += 1
    return files


class List(Visit):
    """List one wide directory, as `ls` does."""

    def __init__(
        self,
        state: State,
        scale: float,
        group: str = "list",
        what: str = "list a directory of {:,} names",
    ) -> None:
        self.operations = scaled(10_000, scale)
        super().__init__(group, state, what.format(self.operations))

    def make(self, lowers: Sequence[str]) -> None:
        material.write(lowers[0], map(str, range(self.operations)), 0)

    def run(self, root: str) -> None:
        seen = len(os.listdir(root))
        if seen != self.operations:
            raise Unfit(f"lists {seen:,} of {self.operations:,} names")


class LongList(List):
    """List one wide directory as `ls -l` does: all names, then a stat of each."""

    def __init__(self, state: State, scale: float) -> None:
        what = "list a directory of {:,} names and then stat each"
        super().__init__(state, scale, "long-list", what)

    def run(self, root: str) -> None:
        super().run(root)
        for number in range(self.operations):
            os.stat(f"{root}/{number}")
