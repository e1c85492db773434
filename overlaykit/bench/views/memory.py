"""How much memory isolated commands hold while they do nothing: one, ten, a hundred of them over the same files."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from overlaykit.bench.views.launchers import installed
from overlaykit.bench.views.residents import IDLE, residents
from overlaykit.bench.workload import Course, Entrant, Point, Unit
from overlaykit.procfs import descendants
from overlaykit.views import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from overlaykit.bench.views.launchers import Launcher
    from overlaykit.bench.workload import Interruptible

_NUMBERS: Final = (1, 10, 100)
_FEW: Final = 10
"""Views in a run of less than full scale; a hundred take minutes."""

Part = Literal["view", "daemon", "cache"]

_WHAT: Final[dict[Part, str]] = {
    "view": "memory of an idle command with all the processes around it",
    "daemon": "the part of it that the daemon of its file system has",
    "cache": "the part of it that is files in the page cache, in use by its processes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of one view: bytes, each shared page counted in equal parts by those who share it (PSS)."""

    view: float
    daemon: float
    cache: float


class Census:
    """What so many views of each launcher hold, round by round: counted once for all workloads that show a part."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._found: dict[tuple[str, int], Memory] = {}

    def of(self, launcher: Launcher, round_: int, interruptible: Interruptible) -> Memory:
        if (launcher.name, round_) not in self._found:
            self._found[launcher.name, round_] = _count(launcher, self.number, interruptible)
        return self._found[launcher.name, round_]


class Held:
    """One part of what a census finds, of one view."""

    unit: Unit = "B"
    more_is_better = False
    operations = 1
    warms = False

    def __init__(self, part: Part, census: Census) -> None:
        views = "1 view" if census.number == 1 else f"{census.number} views"
        self.name = f"memory/{part} {census.number}"
        self.what = f"{_WHAT[part]}, while {views} of the same files run (PSS)"
        self.most_rounds = 1 if census.number > _FEW else 3
        self.point = Point(series=f"memory: {part}", axis="views", size=census.number)
        self._part: Part = part
        self._census = census

    @contextlib.contextmanager
    def open(self, course: Course) -> Iterator[Sequence[Entrant]]:
        yield [
            Entrant(
                name=launcher.name,
                what=launcher.about,
                measure=partial(self._measure, launcher, [], course.interruptible),
            )
            for launcher in installed()
            if self._part != "daemon" or launcher.name == "overlaykit"
        ]

    def _measure(
        self, launcher: Launcher, before: list[Memory], interruptible: Interruptible
    ) -> float:
        memory = self._census.of(launcher, len(before), interruptible)
        before.append(memory)
        occupied: float = getattr(memory, self._part)
        return occupied


def workloads(scale: float) -> list[Held]:
    censuses = [Census(number) for number in _NUMBERS if scale >= 1 or number <= _FEW]
    parts: tuple[Part, ...] = ("view", "daemon", "cache")
    return [Held(part, census) for part in parts for census in censuses]


def _count(launcher: Launcher, number: int, interruptible: Interruptible) -> Memory:
    commands = [launcher.command(*IDLE)] * number
    others = set(descendants(os.getpid()))
    with residents(commands, interruptible, at_once=os.cpu_count() or 1):
        processes = set(descendants(os.getpid())) - others
        daemons = processes & {one.about.daemon for one in Registry().running()}
        shares = {process: proportional(process) for process in processes}
    return Memory(
        view=sum(whole for whole, _ in shares.values()) / number,
        daemon=sum(shares[process][0] for process in daemons) / number,
        cache=sum(files for _, files in shares.values()) / number,
    )


def proportional(process: int) -> tuple[int, int]:
    """A process's share of the memory in use (PSS), and the part of it that is files: bytes.

    0 if it has ended, or may not be looked at, as the init of an ordinary user's view. Source:
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
