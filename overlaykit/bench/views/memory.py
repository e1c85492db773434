"""The memory of idle isolated commands: one, ten, a hundred of them over the same files."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from overlaykit.bench.views.idle import IDLE, idle_processes
from overlaykit.bench.views.launchers import OURS, installed, warm_subjects
from overlaykit.bench.workload import Context, Point, Subject, Unit
from overlaykit.procfs import descendants
from overlaykit.views import Registry, server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from overlaykit.bench.views.launchers import Launcher
    from overlaykit.bench.workload import Interruptible

_NUMBERS: Final = (1, 10, 100)
_SETTLE_SECONDS: Final = 2
"""A daemon gives memory back once it has been idle for half a second."""

_FEW: Final = 10
"""The most views in a run of less than full scale; a hundred take minutes."""

Part = Literal["view", "daemon", "cache"]

_WHAT: Final[dict[Part, str]] = {
    "view": "memory of an idle command and its launcher's processes",
    "daemon": "memory of the daemon of its file system",
    "cache": "mapped files in the page cache, of all its processes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory of one view in bytes, as proportional set size (PSS)."""

    view: float
    daemon: float
    cache: float


class MemorySamples:
    """Samples of `number` idle views by launcher and round, taken once and shared by all workloads."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._found: dict[tuple[str, int], Memory] = {}

    def of(self, launcher: Launcher, round_: int, interruptible: Interruptible) -> Memory:
        if (launcher.name, round_) not in self._found:
            self._found[launcher.name, round_] = _count(launcher, self.number, interruptible)
        return self._found[launcher.name, round_]


class MemoryUse:
    """A workload that reports one part of the samples."""

    unit: Unit = "B"
    more_is_better = False
    operations = 1
    warms = False

    def __init__(self, part: Part, samples: MemorySamples) -> None:
        views = "1 view" if samples.number == 1 else f"{samples.number} views"
        self.name = f"memory/{part} {samples.number}"
        self.what = f"{_WHAT[part]}, while {views} of the same files run (PSS)"
        self.most_rounds = 1 if samples.number > _FEW else 3
        self.point = Point(series=f"memory: {part}", axis="views", size=samples.number)
        self._part: Part = part
        self._samples = samples

    def open(self, context: Context) -> AbstractContextManager[Sequence[Subject]]:
        return warm_subjects(
            (launcher, partial(self._measure, launcher, [], context.interruptible))
            for launcher in installed()
            if self._part != "daemon" or launcher.name == OURS
        )

    def _measure(
        self, launcher: Launcher, rounds: list[Memory], interruptible: Interruptible
    ) -> float:
        memory = self._samples.of(launcher, len(rounds), interruptible)
        rounds.append(memory)
        occupied: float = getattr(memory, self._part)
        return occupied


class Further:
    """The memory that one more idle view takes, while some run already: what they share is not counted."""

    name = "memory/further"
    what = (
        f"memory of each idle view of {_FEW} more, while {_FEW} of the same files run: all processes, page cache, fork "
        "server (PSS)"
    )
    unit: Unit = "B"
    more_is_better = False
    operations = 1
    warms = False
    most_rounds: int | None = 3
    point: Point | None = None

    def open(self, context: Context) -> AbstractContextManager[Sequence[Subject]]:
        return warm_subjects(
            (launcher, partial(self._measure, launcher, context.interruptible))
            for launcher in installed()
        )

    def _measure(self, launcher: Launcher, interruptible: Interruptible) -> float:
        commands = [launcher.command(*IDLE)] * _FEW
        others = _processes()
        sums = []
        with contextlib.ExitStack() as running:
            for _ in range(2):
                running.enter_context(idle_processes(commands, interruptible))
                with interruptible():
                    time.sleep(_SETTLE_SECONDS)
                found = _processes() - others | _fork_server()
                sums.append(sum(proportional(process)[0] for process in found))
        return (sums[1] - sums[0]) / _FEW


def workloads(scale: float) -> list[MemoryUse | Further]:
    by_number = [MemorySamples(number) for number in _NUMBERS if scale >= 1 or number <= _FEW]
    parts: tuple[Part, ...] = ("view", "daemon", "cache")
    return [*(MemoryUse(part, samples) for part in parts for samples in by_number), Further()]


def _count(launcher: Launcher, number: int, interruptible: Interruptible) -> Memory:
    commands = [launcher.command(*IDLE)] * number
    others = _processes()
    with idle_processes(commands, interruptible, at_once=os.cpu_count() or 1):
        with interruptible():
            time.sleep(_SETTLE_SECONDS)
        processes = _processes() - others
        shares = {process: proportional(process) for process in processes}
        daemons = processes & _daemons()
    return Memory(
        view=sum(whole for whole, _ in shares.values()) / number,
        daemon=sum(shares[process][0] for process in daemons) / number,
        cache=sum(files for _, files in shares.values()) / number,
    )


def of_launcher(launcher: Launcher, interruptible: Interruptible) -> float:
    """The memory of an idle command's launcher, without the command's own, in bytes (PSS)."""
    with idle_processes([launcher.command(*IDLE)], interruptible) as (started,):
        with interruptible():
            time.sleep(_SETTLE_SECONDS)
        found = {started.pid, *descendants(started.pid)}
        views = (one.about for one in Registry().running())
        found |= {one.daemon for one in views if one.supervisor in found} - {0}
        return sum(proportional(one)[0] for one in found if not _is_command(one))


def _processes() -> set[int]:
    """The processes below this one, and the daemons of all views: those of a fork server may be elsewhere."""
    return set(descendants(os.getpid())) | _daemons()


def _daemons() -> set[int]:
    daemons = {one.about.daemon for one in Registry().running()} - {0}
    return daemons.union(*map(descendants, daemons))


def _fork_server() -> set[int]:
    running = server.status()
    return set() if running is None else {running.pid}


def _is_command(process: int) -> bool:
    """Whether it is the last program of IDLE."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/comm") as file:
        return file.read() == "cat\n"
    return False


def proportional(process: int) -> tuple[int, int]:
    """The proportional set size of a process, and the part of it that is mapped files, in bytes.

    0 if the process has ended or is not accessible, as the init of an ordinary user's view. Source:
    Documentation/filesystems/proc.rst, smaps_rollup.
    """
    found = {b"Pss:": 0, b"Pss_File:": 0}
    with (
        contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError),
        open(f"/proc/{process}/smaps_rollup", "rb") as file,
    ):
        for line in file:
            name, *rest = line.split()
            if name in found:
                found[name] = int(rest[0]) * 1024
    return found[b"Pss:"], found[b"Pss_File:"]
