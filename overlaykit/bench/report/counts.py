"""Bars: the FUSE requests of each workload, by overlaykit's counters."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from overlaykit.bench.report import canvas, quantities
from overlaykit.bench.report.sections import requests

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from overlaykit.bench.results import Cost, Report

_ROW: Final = 0.27
"""Inches."""
_AROUND: Final = 0.75
_BARS: Final = 0.42
"""The bars' share of the width; the labels beside them have the rest."""
_KINDS: Final = 3
"""The number of kinds of requests that a label names."""


def draw(report: Report) -> list[canvas.Drawing]:
    """One figure, or none without counts. Requires: the context `canvas.style`."""
    counted = [found for name in report.workloads if (found := requests(report, name)) is not None]
    if not counted:
        return []
    return [
        canvas.Drawing(
            name="requests",
            title="FUSE requests",
            about="The requests of the kernel to overlaykit's daemon for one operation. They do not depend on the"
            " machine's speed. The dark part reaches Python, and native code answers the rest. None is best.",
            svg=_figure(counted),
        )
    ]


def in_words(cost: Cost, kinds: int) -> str:
    """The requests for one operation, and the most frequent kinds of them: "2.00 = lookup 1.00 + open 1.00"."""
    found = +(Counter(cost.requests or {}) + Counter(cost.native or {}))
    if not found:
        return "none"
    frequent = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{kind} {_one(count, cost)}" for kind, count in frequent[:kinds]]
    rest = sum(count for _, count in frequent[kinds:])
    if rest * 100 >= sum(found.values()):  # below one percent: left out
        parts.append(f"others {_one(rest, cost)}")
    return f"{_one(sum(found.values()), cost)} = {' + '.join(parts)}"


def _one(count: int, cost: Cost) -> str:
    """A count for one operation, without decimals if it is whole."""
    if count % cost.operations == 0:
        return f"{count // cost.operations:,}"
    return quantities.three_digits(count / cost.operations)


def _figure(counted: list[Cost]) -> str:
    figure, axes = canvas.canvas(_AROUND + _ROW * len(counted))
    axes.set_xscale("symlog", linthresh=1)
    rows = range(len(counted))
    each = [(cost.in_python + cost.in_native) / cost.operations for cost in counted]
    in_python = [cost.in_python / cost.operations for cost in counted]
    axes.barh(rows, each, height=0.66, color=canvas.OURS)
    axes.barh(rows, in_python, height=0.66, color=canvas.INK)
    for row, cost, length in zip(rows, counted, each, strict=True):
        axes.annotate(
            in_words(cost, _KINDS),
            (length, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=canvas.FAINT_INK,
        )
    axes.set_yticks(rows, [canvas.folded(cost.workload) for cost in counted])
    axes.set_ylim(len(counted) - 0.4, -0.6)
    axes.spines.left.set_color(canvas.FAINT_INK)
    _scale(axes, max(each))
    axes.set_xlabel("requests for one operation", loc="left")
    return canvas.svg(figure)


def _scale(axes: Axes, longest: float) -> None:
    """Set an axis that is linear up to one and logarithmic beyond, so that it shows zero."""
    from math import ceil, log10

    decades = max(0, ceil(log10(max(longest, 1)) - 1e-9))
    axes.set_xticks([0, 1, *(10**n for n in range(1, decades + 1))])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.grid(visible=True, axis="x")
    axes.set_xlim(0, 10 ** ((decades + 1) / _BARS - 1))
