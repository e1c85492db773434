"""How much disk a view takes, beside a copy of the files that it shows."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from overlaykit.bench.systems.known import PLAIN
from overlaykit.bench.views.launchers import ours
from overlaykit.bench.views.residents import residents
from overlaykit.bench.workload import Course, Entrant, Point, Unit
from overlaykit.rmtree import rmtree_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FILES: Final = 16
_SIZE: Final = 1 << 20

_CHANGES: Final = {
    "idle": ":",
    "changed": 'echo >> "$1/0"',
}
"""What is done in the view: nothing, or one of its files is changed, which copies that file up."""

_WHAT: Final = {
    "idle": f"disk that a view of {_FILES} files of 1 MiB takes while nothing is written",
    "changed": f"disk that a view of {_FILES} files of 1 MiB takes once one of them was appended to",
}


class Disk:
    """The blocks of all that a view makes on disk; for the baseline, of a copy of the files."""

    unit: Unit = "B"
    more_is_better = False
    operations = 1
    warms = False
    most_rounds: int | None = 1
    point: Point | None = None

    def __init__(self, state: Literal["idle", "changed"]) -> None:
        self.name = f"disk/{state}"
        self.what = _WHAT[state]
        self._change = _CHANGES[state]

    @contextlib.contextmanager
    def open(self, course: Course) -> Iterator[Sequence[Entrant]]:
        layer = os.path.join(course.directory, "layer")
        os.mkdir(layer)
        files = os.path.join(layer, "srv")
        os.mkdir(files)
        for number in range(_FILES):
            with open(os.path.join(files, str(number)), "wb") as file:
                file.write(os.urandom(_SIZE))  # no file system finds a hole or a twin in it
                os.fsync(file.fileno())
        yield [
            Entrant(
                name=PLAIN,
                what="a copy of the files",
                measure=partial(self._copy, files, course),
            ),
            Entrant(
                name="overlaykit",
                what=ours("-l", "LAYER", "-l", "host").about,
                measure=partial(self._view, layer, course),
            ),
        ]

    def _copy(self, files: str, course: Course) -> float:
        with _directory(course.directory) as made:
            with course.interruptible():
                copy = os.path.join(made, "copy")
                shutil.copytree(files, copy)
            return occupied(made)

    def _view(self, layer: str, course: Course) -> float:
        with _directory(course.directory) as made:
            script = f"{self._change} && sync -f / && echo ready && exec cat"
            command = ours("-l", layer, "-l", "host").command("sh", "-c", script, "sh", "/srv")
            environment = {**os.environ, "XDG_CACHE_HOME": made}
            with residents([command], course.interruptible, environment=environment):
                return occupied(made)


def workloads() -> list[Disk]:
    return [Disk("idle"), Disk("changed")]


def occupied(directory: str) -> int:
    """The bytes that a directory and all below it occupy on disk: whole blocks, holes not counted (stat(2))."""
    found = os.lstat(directory).st_blocks
    for folder, folders, files in os.walk(directory):
        found += sum(os.lstat(os.path.join(folder, name)).st_blocks for name in (*folders, *files))
    return found * 512


@contextlib.contextmanager
def _directory(parent: str) -> Iterator[str]:
    path = tempfile.mkdtemp(dir=parent)
    try:
        yield path
    finally:
        rmtree_path(path)
