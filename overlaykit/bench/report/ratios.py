"""Bars: the cost of each workload on each system, as a multiple of the baseline's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from overlaykit.bench.report import canvas, quantities
from overlaykit.bench.report.sections import families, group, ratio_range, sections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from overlaykit.bench.report.sections import Section
    from overlaykit.bench.results import Report

_BAR: Final = 0.155
"""Inches, from one bar to the next."""
_GAP: Final = 0.16
_AROUND: Final = 1.0
"""Inches for the legend and the axis."""
_ENOUGH: Final = 6
"""The workloads after which a new figure begins."""


def draw(report: Report) -> list[canvas.Drawing]:
    """Figures of a few workloads each. Requires: the context `canvas.style`."""
    drawings: list[canvas.Drawing] = []
    for section in sections(report):
        for workloads in families(report, section, _ENOUGH):
            title = ", ".join(dict.fromkeys(map(group, workloads)))
            drawings.append(
                canvas.Drawing(
                    name=f"ratios-{len(drawings) + 1}",
                    title=title,
                    about=f"Costs as multiples of {report.baseline}: further left is better.",
                    svg=_figure(report, section, workloads),
                )
            )
    return drawings


def _figure(report: Report, section: Section, workloads: Sequence[str]) -> str:
    palette = canvas.colours(tuple(report.systems), report.baseline)
    rows = [
        (workload, [s for s in section.systems if _compared(report, workload, s)])
        for workload in workloads
    ]
    height = _AROUND + sum(_BAR * len(systems) + _GAP for _, systems in rows)
    figure, axes = canvas.canvas(height)
    axes.set_xscale("log")
    y, middles, named = 0.0, [], set[str]()
    for workload, systems in rows:
        middles.append(y + _BAR * (len(systems) - 1) / 2)
        for system in systems:
            label = "_nolegend_" if system in named else system
            named.add(system)
            _bar(axes, report, (workload, system), y, palette[system], label)
            y += _BAR
        y += _GAP
    axes.set_yticks(middles, [canvas.folded(workload) for workload, _ in rows])
    axes.set_ylim(y - _GAP - _BAR / 2 + 0.02, -_BAR / 2 - 0.02)
    axes.spines.left.set_visible(False)
    _scale(axes)
    axes.axvline(1, color=palette[report.baseline], linewidth=1.4, label=report.baseline, zorder=3)
    figure.legend(loc="outside upper left", ncols=6, handlelength=1.2, columnspacing=1.4)
    return canvas.svg(figure)


def _compared(report: Report, workload: str, system: str) -> bool:
    return system != report.baseline and report.ratio(workload, system) is not None


def _bar(
    axes: Axes, report: Report, which: tuple[str, str], y: float, colour: str, label: str
) -> None:
    ratio, between = report.ratio(*which), ratio_range(report, *which)
    assert ratio is not None
    assert between is not None
    low, high = between
    axes.barh(y, abs(ratio - 1), left=min(ratio, 1), height=_BAR * 0.8, color=colour, label=label)
    axes.plot(between, (y, y), color=canvas.INK, linewidth=0.8, alpha=0.75, zorder=4)
    right = ratio >= 1
    axes.annotate(
        quantities.quantity(ratio, "x"),
        (max(ratio, high, 1) if right else min(ratio, low), y),
        xytext=(4 if right else -4, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        fontsize=7.5,
        color=canvas.FAINT_INK,
    )


def _scale(axes: Axes) -> None:
    """Set round ticks, and leave room for the labels beside the bars."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    room = max(1.25, (high / low) ** 0.08)
    low, high = min(low, 0.8) / room, max(high, 1.25) * room
    axes.set_xlim(low, high)
    steps = (1.0,) if high / low > 3000 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=40))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantities.mark(value, "x")))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, axis="x", which="major")
