"""The workloads and systems of a run: all, a quick selection, or those that a user names."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from overlaykit.bench import views, workloads
from overlaykit.bench.results import LeftOut
from overlaykit.bench.systems import System, custom, known
from overlaykit.bench.workload import Workload
from overlaykit.errors import Error

ROUNDS: Final = 5

QUICK_ROUNDS: Final = 3
QUICK_SCALE: Final = 0.05
QUICK: Final = (
    "stat/cold",
    "stat/warm",
    "missing/warm",
    "scan/first",
    "scan/warm",
    "list/warm",
    "read/first",
    "read/warm",
    "create/small",
    "unlink/lower",
    "copy-up/*",
    "fio/seqread-warm-buffered-1",
    "fio/seqwrite-buffered-1",
    "tar/extract",
    "rm/lower",
    "git/warm",
    "python/first",
    "sqlite/insert",
    "cc/build",
    "depth/stat 1",
    "depth/stat 10",
    "width/list 100",
    "width/list 1000",
    "clients/read 1",
    "clients/read 8",
    "start/end",
    "memory/* 1",
    "disk/*",
    "processor/hash",
    "diff/*",
    "apply/*",
    "ports/requests",
)
"""Patterns of the workloads of a quick run."""


class NothingSelected(Error):
    message = "--only {0}: no workload has such a name: 'overlaykit bench --list' lists them"


class BaselineUnknown(Error):
    message = "--baseline {0}: not one of the systems of this run: {1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run measures. `baseline`: a system's name; `left_out`: systems that cannot be measured here."""

    workloads: Sequence[Workload]
    systems: Sequence[System]
    left_out: Sequence[LeftOut]
    baseline: str
    rounds: int


def plan(
    *,
    quick: bool = False,
    rounds: int | None = None,
    only: Sequence[str] = (),
    named: Sequence[str] = (),
    targets: Sequence[str] = (),
    baseline: str | None = None,
) -> Plan:
    """Plan a run from the options of the command.

    `only`: patterns (fnmatch) of names of workloads, or of their groups. `named`: the values of `--system`.

    Raises: Error.
    """
    systems, left_out = custom.read(named, targets, *known.known())
    names = [system.name for system in systems]
    if baseline is None:
        baseline = known.PLAIN if known.PLAIN in names else names[0]
    if baseline not in names:
        raise BaselineUnknown(baseline, ", ".join(names))
    return Plan(
        workloads=_select(only or (QUICK if quick else ("*",)), QUICK_SCALE if quick else 1.0),
        systems=systems,
        left_out=left_out,
        baseline=baseline,
        rounds=rounds or (QUICK_ROUNDS if quick else ROUNDS),
    )


def _select(patterns: Sequence[str], scale: float) -> list[Workload]:
    every = [*workloads.workloads(scale), *views.workloads(scale)]
    for pattern in patterns:
        if not any(_matches(workload.name, pattern) for workload in every):
            raise NothingSelected(pattern)
    return [one for one in every if any(_matches(one.name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for text in (name, name.partition("/")[0]))
