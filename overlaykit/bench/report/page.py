"""A page with all results of a run: one file without scripts and external resources."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, Final

from overlaykit.bench.report import quantities
from overlaykit.bench.report.claims import claims
from overlaykit.bench.report.sections import best, requests, sections
from overlaykit.bench.report.style import CSS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from overlaykit.bench.report.canvas import Drawing
    from overlaykit.bench.report.sections import Section
    from overlaykit.bench.results import Report

_TINTS: Final = ((0.9, "good"), (1.15, ""), (3.0, "fair"), (10.0, "poor"))
"""The tint of a cell up to a multiple of the baseline; beyond, it is `bad`."""


def page(report: Report, drawings: Sequence[Drawing]) -> str:
    """The HTML document, with all names and reasons escaped."""
    parts = {
        "figures": ("Figures", _table(report)),
        "claims": ("What is said, and what was measured", _claims(report)),
        "plots": ("Plots", "".join(map(_figure, drawings))),
        "left-out": ("Left out", _left_out(report)),
        "systems": ("What was compared", _systems(report)),
    }
    shown = {name: part for name, part in parts.items() if part[1]}
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in shown.items())
    body = "".join(f'<h2 id="{name}">{title}</h2>\n{html}' for name, (title, html) in shown.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>overlaykit bench</title>
<style>
{CSS}</style>
</head>
<body>
<h1>Costs side by side</h1>
<p class="lede">{_lede(report)}</p>
<nav>{links}</nav>
{_machine(report)}{_how_to_read(report)}{body}</body>
</html>
"""


def _lede(report: Report) -> str:
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report.started))
    return (
        f"overlaykit bench, {when}: {_count(len(report.workloads), 'workload')} on"
        f" {_count(len(report.systems), 'system')}, {_count(report.rounds, 'round')}."
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _machine(report: Report) -> str:
    machine = report.machine
    facts = {
        "Processor": f"{machine.processor}, {_count(machine.cores, 'core')}",
        "Memory": quantities.quantity(machine.memory, "B"),
        "Kernel": f"Linux {machine.kernel}",
        "Layers on": machine.file_system,
        "Run by": "root" if machine.uid == 0 else f"an ordinary user (uid {machine.uid})",
        "Python": machine.python,
        "Programs": ", ".join(f"{name} {version}" for name, version in machine.programs.items()),
    }
    rows = "".join(
        f"<dt>{name}</dt><dd>{escape(value)}</dd>\n" for name, value in facts.items() if value
    )
    return f'<dl class="facts">\n{rows}</dl>\n'


def _how_to_read(report: Report) -> str:
    base = f"<b>{escape(report.baseline)}</b>"
    return f"""<p>Each round runs every workload once on every system, in random order, so that other
load on the machine affects all alike. A cell shows the median of the rounds; below it the multiple of {base}, where
less is better also for rates, and after ± the interquartile range. ★ marks the best of a row. Multiples compare between
machines, times do not, and requests are the same everywhere.</p>
<p class="key"><span class="good">faster than {base}</span><span>about the same</span><span class="fair">up to
3x</span><span class="poor">up to 10x</span><span class="bad">more</span></p>
"""


def _table(report: Report) -> str:
    return "".join(_section(report, section) for section in sections(report))


def _section(report: Report, section: Section) -> str:
    counted = any(requests(report, name) for name in section.workloads)
    headings = "".join(
        f"<th{_class('ours' if system == 'overlaykit' else '')}>{escape(system)}</th>"
        for system in section.systems
    )
    rows = "".join(_row(report, section, name, counted) for name in section.workloads)
    return (
        f'<div class="wide"><table>\n<thead><tr><th>workload</th>{headings}'
        f"{'<th>FUSE requests, each</th>' if counted else ''}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )


def _row(report: Report, section: Section, workload: str, counted: bool) -> str:
    cells = [_cell(report, workload, system) for system in section.systems]
    if counted:
        cells.append(_requests(report, workload))
    what = f"<small>{escape(report.workloads[workload])}</small>"
    return f"<tr><th>{escape(workload)}{what}</th>{''.join(cells)}</tr>\n"


def _cell(report: Report, workload: str, system: str) -> str:
    cost = report.cost(workload, system)
    if cost is None:
        return '<td class="none">&ndash;</td>'
    tint = _tint(report.ratio(workload, system) if system != report.baseline else None)
    figure = escape(quantities.quantity(cost.median, cost.unit))
    if best(report, workload) == system:
        figure = f"<b>{figure} ★</b>"
    return f"<td{_class(tint)}>{figure}<small>{quantities.aside(report, cost)}</small></td>"


def _tint(multiple: float | None) -> str:
    if multiple is None:
        return ""
    return next((name for limit, name in _TINTS if multiple <= limit), "bad")


def _requests(report: Report, workload: str) -> str:
    cost = requests(report, workload)
    if cost is None or cost.requests is None:
        return '<td class="none">&ndash;</td>'
    if not cost.in_python + cost.in_native:
        return "<td>none</td>"
    kinds = "; ".join(
        f"{by}: "
        + (", ".join(f"{kind} {count:,}" for kind, count in of.items() if count) or "none")
        for by, of in (("Python", cost.requests), ("native", cost.native or {}))
    )
    total, python = (
        f"{quantities.three_digits(number / cost.operations)}"
        for number in (cost.in_python + cost.in_native, cost.in_python)
    )
    return f'<td title="{escape(kinds)}">{total}<small>{python} in Python</small></td>'


def _figure(drawing: Drawing) -> str:
    return (
        f"<h3>{escape(drawing.title)}</h3>\n<figure>\n<figcaption>{escape(drawing.about)}</figcaption>\n"
        f"{drawing.inline()}</figure>\n"
    )


def _claims(report: Report) -> str:
    lines = "".join(f"<li>{escape(line)}</li>\n" for line in claims(report))
    return f"<ul>\n{lines}</ul>\n" if lines else ""


def _left_out(report: Report) -> str:
    return _listing(
        ("system", "workload", "why"),
        ((left.system or "all", left.workload or "all", left.why) for left in report.left_out),
    )


def _systems(report: Report) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td><code>{escape(what)}</code></td></tr>\n"
        for name, what in report.systems.items()
    )
    return f'<div class="wide"><table class="legend"><tbody>\n{rows}</tbody></table></div>\n'


def _listing(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text; empty without rows."""
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(word)}</td>" for word in row) + "</tr>\n" for row in rows
    )
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    if not body:
        return ""
    return (
        f'<div class="wide"><table class="legend">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>'
        "</table></div>\n"
    )


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
