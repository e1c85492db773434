"""The disk space of a view, beside a copy of its files."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from overlaykit.bench.systems.known import PLAIN
from overlaykit.bench.views.idle import IDLE, idle_processes
from overlaykit.bench.views.launchers import OURS, ours, warm
from overlaykit.bench.workload import Context, Point, Subject, Unit
from overlaykit.procfs import descendants
from overlaykit.rmtree import rmtree_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from overlaykit.bench.views.launchers import Launcher

_FILES: Final = 16
_SIZE: Final = 1 << 20

_CHANGES: Final = {
    "idle": ":",
    "changed": 'echo >> "$1/0"',
}
"""The shell command in the view: nothing, or a change of one file, which copies it up."""

_WHAT: Final = {
    "idle": f"disk space of a view of {_FILES} files of 1 MiB, without changes",
    "changed": f"disk space of a view of {_FILES} files of 1 MiB, one of them appended to",
}


class Disk:
    """The blocks on disk of a view; for the baseline, those of a copy of the files."""

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
    def open(self, context: Context) -> Iterator[Sequence[Subject]]:
        layer = os.path.join(context.directory, "layer")
        os.mkdir(layer)
        files = os.path.join(layer, "srv")
        os.mkdir(files)
        for number in range(_FILES):
            with open(os.path.join(files, str(number)), "wb") as file:
                file.write(os.urandom(_SIZE))  # does not compress or deduplicate
                os.fsync(file.fileno())
        with warm():
            yield [
                Subject(
                    name=PLAIN,
                    what="a copy of the files",
                    measure=partial(self._copy, files, context),
                ),
                Subject(
                    name=OURS,
                    what=ours("-l", "LAYER", "-l", "host").about,
                    measure=partial(self._view, layer, context),
                ),
            ]

    def _copy(self, files: str, context: Context) -> float:
        with _directory(context.directory) as made:
            with context.interruptible():
                copy = os.path.join(made, "copy")
                shutil.copytree(files, copy)
            return occupied(made)

    def _view(self, layer: str, context: Context) -> float:
        with _directory(context.directory) as made:
            script = f"{self._change} && sync -f / && echo ready && exec cat"
            command = ours("-l", layer, "-l", "host").command("sh", "-c", script, "sh", "/srv")
            environment = {**os.environ, "XDG_CACHE_HOME": made}
            with idle_processes([command], context.interruptible, environment=environment):
                return occupied(made)


def workloads() -> list[Disk]:
    return [Disk("idle"), Disk("changed")]


def of_launcher(launcher: Launcher, context: Context) -> float:
    """The bytes on disk of an idle view, or machine."""
    with _directory(context.directory) as made:
        environment = {**launcher.environment, "XDG_CACHE_HOME": made}
        command = launcher.command(*IDLE)
        with idle_processes([command], context.interruptible, environment=environment) as (one,):
            return occupied(made) + _nameless(descendants(one.pid))


def _nameless(processes: Iterable[int]) -> int:
    """The bytes on disk of files that processes have open and that have no name any more, each once."""
    found: dict[tuple[int, int], int] = {}
    for process in processes:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{process}/fd"):
                path = f"/proc/{process}/fd/{name}"
                if os.readlink(path).startswith("/memfd:"):
                    continue
                st = os.stat(path)
                if stat.S_ISREG(st.st_mode) and st.st_nlink == 0:
                    found[st.st_dev, st.st_ino] = st.st_blocks * 512
    return sum(found.values())


def occupied(directory: str) -> int:
    """The bytes of a directory tree on disk: whole blocks, without holes (stat(2))."""
    found = os.lstat(directory).st_blocks
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):  # a daemon works there
                found += os.lstat(os.path.join(folder, name)).st_blocks
    return found * 512


@contextlib.contextmanager
def _directory(parent: str) -> Iterator[str]:
    path = tempfile.mkdtemp(dir=parent)
    try:
        yield path
    finally:
        while os.path.lexists(path):
            with contextlib.suppress(FileNotFoundError):  # the daemon removes what is its own
                rmtree_path(path)
