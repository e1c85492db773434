"""The time to list what a view has changed, and to apply it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from overlaykit.bench.systems.known import PLAIN
from overlaykit.bench.views.launchers import OURS
from overlaykit.bench.workload import Context, Point, Subject, Unit, scaled
from overlaykit.bench.workloads import material
from overlaykit.rmtree import rmtree_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_FEW: Final = 10
_TREE: Final = 200_000
_MANY: Final = 100_000
_NEW: Final = 20_000
_ROUNDS: Final = 5

_SYNCED: Final = "cp -a, synced"


class _Commands:
    """The time of a command, from its start to its end."""

    unit: Unit = "s"
    more_is_better = False
    operations = 1
    warms = True
    most_rounds: int | None = _ROUNDS
    point: Point | None = None


class Diff(_Commands):
    """The command `diff`, of files that were changed in the upper and have kept their sizes."""

    def __init__(self, name: str, files: int, changed: int) -> None:
        self.name = f"diff/{name}"
        self.what = f"list {changed:,} changed files of a tree of {files:,}"
        self._files = files
        self._changed = changed

    @contextlib.contextmanager
    def open(self, context: Context) -> Iterator[Sequence[Subject]]:
        lower, upper = (os.path.join(context.directory, one) for one in ("lower", "upper"))
        names = material.spread(self._files)
        _write(lower, names, "old")
        _write(upper, names[:: self._files // self._changed], "new")
        ours = [_overlaykit(), "diff", "-l", lower, upper]
        every = ["find", lower, "-newer", upper]
        yield [
            Subject(
                name=PLAIN,
                what="find -newer: looks at each file of the tree, by time alone",
                measure=partial(_timed, every, context),
            ),
            Subject(name=OURS, what="overlaykit diff", measure=partial(_timed, ours, context)),
        ]


class Apply(_Commands):
    """The command `apply`, of new files in new directories."""

    name = "apply/many"

    def __init__(self, files: int) -> None:
        self.what = f"write {files:,} new files of an upper into its layer"
        self._files = files

    @contextlib.contextmanager
    def open(self, context: Context) -> Iterator[Sequence[Subject]]:
        made = os.path.join(context.directory, "made")
        _write(made, material.spread(self._files), "new")
        synced = 'cp -a "$1" "$2" && sync -f "$2"'
        commands = {
            PLAIN: ("cp -a", ("cp", "-a")),
            _SYNCED: ("cp -a, then sync -f", ("sh", "-c", synced, "sh")),
            OURS: ("overlaykit apply, which syncs", (_overlaykit(), "apply", "-l")),
        }
        yield [
            Subject(name=name, what=what, measure=partial(self._measure, argv, made, context))
            for name, (what, argv) in commands.items()
        ]

    def _measure(self, argv: Sequence[str], made: str, context: Context) -> float:
        directory = tempfile.mkdtemp(dir=context.directory)
        try:
            lower, upper = (os.path.join(directory, one) for one in ("lower", "upper"))
            os.mkdir(lower)
            with context.interruptible():
                subprocess.run(["cp", "-a", made, upper], check=True)
                subprocess.run(["sync", "-f", upper], check=True)
            both = (lower, upper) if argv[-1] == "-l" else (upper, lower)
            return _timed([*argv, *both], context)
        finally:
            rmtree_path(directory)


def workloads(scale: float) -> list[Diff | Apply]:
    many = scaled(_MANY, scale, least=_FEW)
    return [
        Diff("few", scaled(_TREE, scale, least=_FEW), _FEW),
        Diff("many", many, many),
        Apply(scaled(_NEW, scale)),
    ]


def _write(root: str, names: Iterable[str], text: str) -> None:
    names = list(names)
    for directory in material.directories(names):
        os.makedirs(os.path.join(root, directory))
    for name in names:
        with open(os.path.join(root, name), "w", encoding="ascii") as file:
            file.write(f"{text} {name}\n" * 10)


def _overlaykit() -> str:
    return os.path.join(os.path.dirname(sys.executable), "overlaykit")


def _timed(argv: Sequence[str], context: Context) -> float:
    """The seconds that a command takes. Raises: CalledProcessError."""
    with context.interruptible():
        began = time.perf_counter()
        subprocess.run(
            argv,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        return time.perf_counter() - began
