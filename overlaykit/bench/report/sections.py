"""The parts of a report, and functions of them."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from overlaykit.bench.results import Cost, Report, Series


@dataclass(frozen=True, slots=True)
class Section:
    """Consecutive workloads that share their systems."""

    systems: tuple[str, ...]
    """In the report's order."""
    workloads: tuple[str, ...]


def sections(report: Report) -> list[Section]:
    """Divide a run, so that unrelated systems, such as file systems and launchers, share no table."""
    found: list[tuple[set[str], list[str]]] = []
    for workload in report.workloads:
        systems = measured(report, workload)
        if not systems:
            continue
        if found and (systems <= found[-1][0] or found[-1][0] <= systems):
            found[-1][0].update(systems)
            found[-1][1].append(workload)
        else:
            found.append((systems, [workload]))
    return [
        Section(tuple(name for name in report.systems if name in systems), tuple(workloads))
        for systems, workloads in found
    ]


def measured(report: Report, workload: str) -> set[str]:
    """The systems with results for a workload."""
    return {cost.system for cost in report.costs if cost.workload == workload}


def best(report: Report, workload: str) -> str | None:
    """The best system for a workload; None if only one was measured."""
    costs = [cost for cost in report.costs if cost.workload == workload]
    if len(costs) < 2:
        return None
    choose = max if costs[0].more_is_better else min
    return choose(costs, key=lambda cost: cost.median).system


def requests(report: Report, workload: str) -> Cost | None:
    """The cost with FUSE request counts for a workload; None if there is none."""
    return next(
        (c for c in report.costs if c.workload == workload and c.requests is not None), None
    )


def ratio_range(report: Report, workload: str, system: str) -> tuple[float, float] | None:
    """The quartiles as multiples of the baseline's median; None without a ratio."""
    cost, base = report.cost(workload, system), report.cost(workload, report.baseline)
    if cost is None or base is None or report.ratio(workload, system) is None:
        return None
    low, high = quartiles(cost)
    if not cost.more_is_better:
        return low / base.median, high / base.median
    return base.median / high, base.median / (low or high)


def quartiles(cost: Cost) -> tuple[float, float]:
    """The first and the third quartile; the value itself after one round."""
    if len(cost.values) < 2:
        return cost.median, cost.median
    first, _, third = statistics.quantiles(cost.values, n=4, method="inclusive")
    return first, third


def curves(report: Report) -> list[Series]:
    """The series for logarithmic axes: a system has results above zero for two sizes."""
    sizes = {
        (series.name, system): sum(
            (cost := report.cost(name, system)) is not None and cost.median > 0
            for _, name in series.points
        )
        for series in report.series
        for system in report.systems
    }
    return [
        series
        for series in report.series
        if any(sizes[series.name, system] > 1 for system in report.systems)
    ]


def families(report: Report, section: Section, enough: int) -> list[tuple[str, ...]]:
    """The workloads of a section with ratios and outside of curves, divided into figures.

    A group stays together; a new figure begins after `enough` workloads.
    """
    drawn = {name for series in curves(report) for _, name in series.points}
    compared = [
        name for name in section.workloads if name not in drawn and has_ratios(report, name)
    ]
    parts: list[list[str]] = []
    for _, family in itertools.groupby(compared, key=group):
        if not parts or len(parts[-1]) >= enough:
            parts.append([])
        parts[-1] += family
    return [tuple(part) for part in parts]


def has_ratios(report: Report, workload: str) -> bool:
    """Whether a system has a ratio to the baseline."""
    others = measured(report, workload) - {report.baseline}
    return any(report.ratio(workload, system) is not None for system in others)


def group(workload: str) -> str:
    """The group of a workload: "stat" of "stat/cold"."""
    return workload.partition("/")[0]
