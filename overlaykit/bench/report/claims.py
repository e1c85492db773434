"""What is said of machines and of views, beside what a run has measured of both (`bench.views.comparison`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from overlaykit.bench.report.quantities import quantity
from overlaykit.bench.report.sections import ratio_range

if TYPE_CHECKING:
    from overlaykit.bench.results import Report

_MACHINE: Final = "machine"
_VIEWS: Final = ("view", "view, kernel")
_LESS: Final = 20
"""How many times less memory a view is to take than a machine."""


def claims(report: Report) -> list[str]:
    """Sentences, one for each claim of which something was measured."""
    found = [
        _line(
            "processor time of a machine: said 10 to 20 % more; of a view: said 0",
            _percentages(report),
        ),
        _line(
            "storage of a machine: said 50 to 100 % more; of a view: said 0; beside the layers",
            _quantities(report, "storage"),
        ),
        _line(
            "memory of a machine's system: said about 200 MB; of a view: next to nothing",
            _quantities(report, "memory"),
        ),
        _line(
            f"memory of a view: to be {_LESS} times less than that of a machine",
            _times_less(report),
        ),
    ]
    return [line for line in found if line]


def _line(said: str, measured: list[str]) -> str:
    return f"{said}; measured: {', '.join(measured)}." if measured else ""


def _workload(report: Report, kind: str) -> str:
    """The name of the workload: of `overlaykit bench`, or of `overlaykit compare`."""
    names = (f"{_MACHINE}/{kind}", f"command: {kind}", kind)
    return next((name for name in names if name in report.workloads), "")


def _percentages(report: Report) -> list[str]:
    name = _workload(report, "processor")
    found = []
    for system in (*_VIEWS, _MACHINE):
        multiple = report.ratio(name, system)
        span, base = ratio_range(report, name, system), ratio_range(report, name, report.baseline)
        if multiple is None or span is None or base is None:
            continue
        # Both spreads: the plain process differs from round to round, too.
        noise = span[0] <= base[1] and base[0] <= span[1]
        found.append(f"{system} {multiple - 1:+.1%}{' (within the noise)' if noise else ''}")
    return found


def _quantities(report: Report, kind: str) -> list[str]:
    costs = ((name, report.cost(_workload(report, kind), name)) for name in (*_VIEWS, _MACHINE))
    return [f"{name} {quantity(cost.median, cost.unit)}" for name, cost in costs if cost]


def _times_less(report: Report) -> list[str]:
    name = _workload(report, "memory")
    machine = report.cost(name, _MACHINE)
    found = ((system, report.cost(name, system)) for system in _VIEWS)
    return [
        f"{system} {machine.median / cost.median:.1f} times"
        for system, cost in found
        if machine and cost and cost.median
    ]
