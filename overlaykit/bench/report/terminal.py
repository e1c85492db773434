"""The table of a run for the terminal or a file: 100 columns fit six systems."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from overlaykit.bench.report import quantities
from overlaykit.bench.report.claims import claims
from overlaykit.bench.report.sections import Section, best, requests, sections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from overlaykit.bench.results import Cost, Report

_HEADING_WIDTH: Final = 11
"""The characters of a heading's line: as many as `1.02 GiB/s*` has."""


def table(report: Report) -> RenderableType:
    """A row for each workload, a column for each system, for a `rich.console.Console`.

    A cell: the median, below it the ratio to the baseline and the spread. The best of a row is bold, with an asterisk.
    Each section is a table.
    """
    from rich.console import Group

    parts: list[RenderableType] = []
    for section in sections(report):
        parts += [_section(report, section), ""]
    return Group(*parts, *map(_as_is, claims(report)), _legend(report), *_left_out(report))


def _section(report: Report, section: Section) -> Table:
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("workload", overflow="fold", vertical="top")
    for system in section.systems:
        shown.add_column(_heading(system), justify="right", no_wrap=True)
    counted = [found for name in section.workloads if (found := requests(report, name))]
    if counted:
        shown.add_column("requests\neach", justify="right", no_wrap=True)
    for workload in section.workloads:
        cells = [_cell(report, workload, system) for system in section.systems]
        found = requests(report, workload)
        shown.add_row(_as_is(workload), *cells, *([_requests(found)] if counted else []))
    return shown


def _heading(system: str) -> Text:
    from rich.text import Text

    name = system
    if len(system) > _HEADING_WIDTH:
        name = system.replace(", ", ",\n") if ", " in system else system.replace("-", "-\n")
    return Text(name)


def _cell(report: Report, workload: str, system: str) -> Text:
    from rich.text import Text

    cost = report.cost(workload, system)
    if cost is None:
        return Text("-", "dim")
    text = Text(quantities.quantity(cost.median, cost.unit))
    if best(report, workload) == system:
        text.stylize("bold green")
        text.append("*", "bold green")
    else:
        text.append(" ")
    aside = quantities.aside(report, cost)
    return text.append(f"\n{aside} ", "dim") if aside else text


def _requests(cost: Cost | None) -> Text:
    from rich.text import Text

    if cost is None or cost.requests is None:
        return Text("-", "dim")
    total, python = (
        quantities.three_digits(number / cost.operations)
        for number in (cost.in_python + cost.in_native, cost.in_python)
    )
    return Text("none") if total == "0" else Text(total).append(f"\n{python} Python", "dim")


def _legend(report: Report) -> Text:
    from rich.text import Text

    rounds = f"{report.rounds} round{'' if report.rounds == 1 else 's'}"
    return Text(
        f"Medians of {rounds}; below them the multiple of {report.baseline} (less is better) and the interquartile"
        f" range. * marks the best. Below the FUSE requests of an operation: those that reached Python."
        f" {report.machine.processor}, {report.machine.cores} cores, Linux {report.machine.kernel},"
        f" {report.machine.file_system}, uid {report.machine.uid}.",
        "dim",
    )


def _left_out(report: Report) -> Iterator[Text]:
    """The skipped measurements, a line for each system and reason."""
    for (system, why), group in itertools.groupby(
        report.left_out, key=lambda left: (left.system, left.why)
    ):
        workloads = ", ".join(left.workload for left in group)
        where = " on ".join(filter(None, (workloads, system)))
        yield _as_is(f"left out: {where}: {why}")


def _as_is(words: str) -> Text:
    """Text without markup: brackets in a name stay."""
    from rich.text import Text

    return Text(words)
