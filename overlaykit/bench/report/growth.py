"""Curves: a cost by a size, one figure for each series of a report."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from overlaykit.bench.report import canvas, quantities
from overlaykit.bench.report.sections import curves, quartiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from overlaykit.bench.results import Report, Series

_HEIGHT: Final = 3.6


def draw(report: Report) -> list[canvas.Drawing]:
    """A figure for each curve. Requires: the context `canvas.style`."""
    return [
        canvas.Drawing(
            name=f"growth-{number}-" + re.sub(r"[^a-z0-9]+", "-", series.name.lower()).strip("-"),
            title=series.name,
            about=f"The cost by the number of {series.axis}; both axes are logarithmic. Flat is best.",
            svg=_figure(report, series),
        )
        for number, series in enumerate(curves(report), start=1)
    ]


def _figure(report: Report, series: Series) -> str:
    palette = canvas.colours(tuple(report.systems), report.baseline)
    figure, axes = canvas.canvas(_HEIGHT)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for system in report.systems:
        _curve(axes, report, series, system, palette[system])
    costs = [c for c in report.costs if c.workload in {name for _, name in series.points}]
    _scale(axes, [size for size, _ in series.points], costs[0].unit)
    axes.set_xlabel(series.axis)
    axes.set_ylabel(f"median ({'more' if costs[0].more_is_better else 'less'} is better)")
    figure.legend(loc="outside right upper", handlelength=1.6)
    return canvas.svg(figure)


def _curve(axes: Axes, report: Report, series: Series, system: str, colour: str) -> None:
    """A line through the medians above zero, and a band between the quartiles."""
    points = [
        (size, cost)
        for size, name in series.points
        if (cost := report.cost(name, system)) is not None and cost.median > 0
    ]
    if not points:
        return
    sizes = [size for size, _ in points]
    ours = system == "overlaykit"
    axes.plot(
        sizes,
        [cost.median for _, cost in points],
        color=colour,
        label=system,
        linewidth=2.4 if ours else 1.5,
        linestyle="--" if system == report.baseline else "-",
        marker="o",
        markersize=5 if ours else 4,
        zorder=4 if ours else 3,
    )
    between = [quartiles(cost) for _, cost in points]
    axes.fill_between(
        sizes,
        [low or cost.median for (low, _), (_, cost) in zip(between, points, strict=True)],
        [high for _, high in between],
        color=colour,
        alpha=0.18,
        linewidth=0,
    )


def _scale(axes: Axes, sizes: list[int], unit: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    if high / low < 10:  # a flat curve looks flat
        middle = (low * high) ** 0.5
        low, high = middle / 10**0.5, middle * 10**0.5
        axes.set_ylim(low, high)
    base = 2.0 if unit in ("B", "B/s") else 10.0
    steps = (1.0,) if base == 2 or high / low > 1e4 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(base=base, subs=steps, numticks=14))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: quantities.mark(value, unit)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="major")
