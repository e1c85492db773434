"""A command as a process, in a view of each driver, in a machine: what each costs.

`overlaykit compare` measures a command of the user's, the section `machine` of `overlaykit bench` a fixed computation.
"""

from __future__ import annotations

import resource
import subprocess
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from overlaykit.bench.systems.processes import reap_on_exit
from overlaykit.bench.views import disk, memory, ports, processor
from overlaykit.bench.views.launchers import Launcher, ours, plain, warm_subjects
from overlaykit.bench.views.start import until_first_output
from overlaykit.bench.workload import Context, Point, Subject, Unit, Workload, scaled
from overlaykit.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

PROCESS: Final = "process"
_SUMS: Final = 100_000
"""An emulated processor takes thirty times longer."""
_SYSTEM_CALLS: Final = 200_000
_REQUESTS: Final = 2_000


class PlaceUnknown(Error):
    message = "--only {0}: no such place: give {1}, or several with commas between"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a command runs. `promise`: what separates it there."""

    launcher: Launcher
    kind: str
    promise: str


def places() -> list[Place]:
    """All of them, the one to compare with first."""
    separated = (
        "files, processes, ports, users and devices of its own; the kernel is the machine's, and a fault of it that a "
        "hostile program knows leads out"
    )
    return [
        Place(
            launcher=replace(plain(), name=PROCESS),
            kind=PROCESS,
            promise="nothing is separated: what it changes is changed",
        ),
        Place(launcher=replace(ours(), name="view"), kind="view", promise=separated),
        Place(
            launcher=ours("--driver=kernel", name="view, kernel"), kind="view", promise=separated
        ),
        Place(
            launcher=ours("--vm", name="machine"),
            kind="vm",
            promise=(
                "a kernel of its own; a hostile program that breaks it has still to break QEMU, which a view confines"
            ),
        ),
    ]


def chosen(only: str | None) -> list[Place]:
    """The places of the kinds that `only` names, with commas between. Raises: PlaceUnknown."""
    every = places()
    kinds = list(dict.fromkeys(place.kind for place in every))
    wanted = kinds if only is None else only.split(",")
    for kind in wanted:
        if kind not in kinds:
            raise PlaceUnknown(kind, ", ".join(kinds))
    return [place for place in every if place.kind in wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A workload whose subjects are places."""

    name: str
    what: str
    unit: Unit
    measure: Callable[[Launcher, Context], float]
    launchers: Sequence[Launcher]
    more_is_better: bool = False
    operations: int = 1
    warms: bool = False
    most_rounds: int | None = None
    point: Point | None = None

    def open(self, context: Context) -> AbstractContextManager[Sequence[Subject]]:
        return warm_subjects(
            (launcher, partial(self.measure, launcher, context)) for launcher in self.launchers
        )


def workloads(argv: Sequence[str], found: Sequence[Place]) -> list[Workload]:
    """What is compared: the start, the command, memory, storage, system calls and network requests."""
    compared = partial(Compared, launchers=[place.launcher for place in found])
    return [
        compared(
            name="start",
            what="start a command, until its first byte of output",
            unit="s",
            warms=True,
            measure=lambda launcher, context: until_first_output(launcher, context.interruptible),
        ),
        compared(
            name="command: time",
            what="the command, with its start and end",
            unit="s",
            measure=partial(_wall, argv),
        ),
        compared(
            name="command: processor",
            what="processor time of the command and of all that serves it, without that of an empty command",
            unit="s",
            measure=partial(_processor, argv),
        ),
        compared(
            name="memory",
            what="memory of an idle command's surroundings, without its own (PSS)",
            unit="B",
            most_rounds=1,
            measure=lambda launcher, context: memory.of_launcher(launcher, context.interruptible),
        ),
        compared(
            name="storage",
            what="disk space beside the layers, without changes",
            unit="B",
            most_rounds=1,
            measure=_storage,
        ),
        compared(
            name="system calls",
            what=f"cheap system calls in a second of processor time, of {_SYSTEM_CALLS:,}",
            unit="1/s",
            more_is_better=True,
            operations=_SYSTEM_CALLS,
            measure=_system_calls,
        ),
        compared(
            name="requests",
            what=f"requests of a kilobyte in a second, of {_REQUESTS:,}, from the host to a port",
            unit="1/s",
            more_is_better=True,
            operations=_REQUESTS,
            measure=_requests,
        ),
    ]


def section(scale: float) -> list[Workload]:
    """The workloads of `overlaykit bench`, in which the process is its baseline."""
    first, *others = places()
    found = [replace(first, launcher=plain()), *others]
    every = {one.name: one for one in workloads((), found) if isinstance(one, Compared)}
    sums = scaled(_SUMS, scale)
    computation = replace(
        every["system calls"],
        name="processor",
        what=f"processor time of one of {sums:,} SHA-256 sums, each of the previous one",
        unit="s",
        more_is_better=False,
        operations=sums,
        measure=lambda launcher, context: processor.seconds_each(
            launcher, "hash", sums, context.interruptible
        ),
    )
    chosen = (every["start"], computation, every["memory"], every["storage"])
    return [replace(one, name=f"machine/{one.name}") for one in chosen]


def _run(argv: Sequence[str], launcher: Launcher, context: Context, **variables: str) -> None:
    """Raises: CalledProcessError."""
    command = launcher.command(*argv)
    with (
        reap_on_exit(),
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**launcher.environment, **variables},
        ) as process,
        context.interruptible(),
    ):
        _, errors = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)


def _wall(argv: Sequence[str], launcher: Launcher, context: Context) -> float:
    began = time.perf_counter()
    _run(argv, launcher, context)
    return time.perf_counter() - began


def _processor(argv: Sequence[str], launcher: Launcher, context: Context) -> float:
    """Without the fork server: its children are nobody's who could count their time."""
    used = []
    for one in ("true",), argv:
        before = _of_children()
        _run(one, launcher, context, OVERLAYKIT_SERVER="off")
        used.append(_of_children() - before)
    empty, command = used
    return max(0.0, command - empty)


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _storage(launcher: Launcher, context: Context) -> float:
    return disk.of_launcher(launcher, context) if launcher.argv else 0.0


def _system_calls(launcher: Launcher, context: Context) -> float:
    return 1 / processor.seconds_each(launcher, "syscall", _SYSTEM_CALLS, context.interruptible)


def _requests(launcher: Launcher, context: Context) -> float:
    serving: ports.Serving = partial(ports.published, launcher)
    if not launcher.argv:
        serving = ports.on_host
    return ports.per_second("requests", serving, _REQUESTS, context.interruptible)
