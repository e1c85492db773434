"""The time to list what a view has changed, and to apply it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
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

_REMOVERS: Final = 16

_STATE: Final = ".overlaykit-apply"
"""What `apply` leaves in the layer."""

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
        with _removed_at_end(lower, upper):
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
        made, upper = (os.path.join(context.directory, one) for one in ("made", "upper"))
        _write(made, material.spread(self._files), "new")
        with context.interruptible():
            subprocess.run(["cp", "-a", made, upper], check=True)
        copy = partial(self._measure_copy, made, context)
        synced = 'cp -a "$1" "$2" && sync -f "$2"'
        with _removed_at_end(made, upper):
            yield [
                Subject(name=PLAIN, what="cp -a", measure=partial(copy, ["cp", "-a"])),
                Subject(
                    name=_SYNCED,
                    what="cp -a, then sync -f",
                    measure=partial(copy, ["sh", "-c", synced, "sh"]),
                ),
                Subject(
                    name=OURS,
                    what="overlaykit apply, which syncs",
                    measure=partial(self._measure, upper, context),
                ),
            ]

    def _measure_copy(self, made: str, context: Context, argv: Sequence[str]) -> float:
        with _new_directory(context) as directory:
            _sync(directory, context)
            return _timed([*argv, made, os.path.join(directory, "lower")], context)

    def _measure(self, made: str, context: Context) -> float:
        with _new_directory(context) as directory:
            lower, upper = (os.path.join(directory, one) for one in ("lower", "upper"))
            os.mkdir(lower)
            os.mkdir(upper)
            _move(made, upper)
            try:
                _sync(directory, context)
                return _timed([_overlaykit(), "apply", "-l", lower, upper], context)
            finally:
                # Apply has renamed them: a new copy for each round, and its removal, would take much longer.
                for one in (lower, upper):
                    _move(one, made)


def _move(source: str, target: str) -> None:
    for name in os.listdir(source):
        if name == _STATE:
            continue
        os.rename(os.path.join(source, name), os.path.join(target, name))


def _sync(directory: str, context: Context) -> None:
    """Have on the disk what earlier rounds have written and removed."""
    with context.interruptible():
        subprocess.run(["sync", "-f", directory], check=True)


@contextlib.contextmanager
def _new_directory(context: Context) -> Iterator[str]:
    """A directory for one round."""
    directory = tempfile.mkdtemp(dir=context.directory)
    try:
        yield directory
    finally:
        _remove(directory)


@contextlib.contextmanager
def _removed_at_end(*directories: str) -> Iterator[None]:
    try:
        yield
    finally:
        for directory in directories:
            _remove(directory)


def _remove(directory: str) -> None:
    """Remove a tree, several directories at once.

    ext4 without a journal, mounted with `discard`, waits for the disk at each file: one thread removed 300 files a
    second, 16 threads 4,000.
    """
    leaves = [path for path, directories, _ in os.walk(directory) if not directories]
    with ThreadPoolExecutor(_REMOVERS) as pool:
        list(pool.map(rmtree_path, leaves))
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
