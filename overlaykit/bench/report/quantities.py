"""Numbers for people: three digits and a unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from overlaykit.bench.results import Cost, Report

_KI: Final = 1024.0

_SCALES: Final[dict[str, tuple[tuple[float, str], ...]]] = {
    "s": ((1.0, " s"), (1e-3, " ms"), (1e-6, " µs"), (1e-9, " ns")),
    "B": ((_KI**3, " GiB"), (_KI**2, " MiB"), (_KI, " KiB"), (1.0, " B")),
    "B/s": ((_KI**3, " GiB/s"), (_KI**2, " MiB/s"), (_KI, " KiB/s"), (1.0, " B/s")),
    "1/s": ((1e6, " M/s"), (1e3, " k/s"), (1.0, " /s")),
    "x": ((1.0, "x"),),
}
"""The scales of the units of `results.Cost`, largest first."""

_ROUNDS_UP: Final = 0.9995
"""The least value that three digits show as 1.00."""


def quantity(value: float, unit: str) -> str:
    """A value in a fitting scale of its unit: 0.0000123 `s` is "12.3 µs". An unknown unit is appended."""
    scales = _SCALES.get(unit, ((1.0, f" {unit}"),))
    scale, name = next((s for s in scales if abs(value) >= s[0] * _ROUNDS_UP), scales[-1])
    return three_digits(value / scale) + name


def mark(value: float, unit: str) -> str:
    """A round value for an axis: "20 µs", "0.5x"."""
    figure, space, rest = quantity(value, unit).rpartition(" ")
    if not space:
        figure, rest = rest.removesuffix("x"), "x"
    return f"{float(figure.replace(',', '')):,g}{space}{rest}"


def share(part: float, whole: float) -> str:
    """A spread relative to its median: "±4%". Requires: `whole` is not 0."""
    return f"±{part / whole:.0%}"


def three_digits(value: float) -> str:
    """A number with three significant digits, or all its integer digits; 0 is "0"."""
    if not value:
        return "0"
    places = next((n for n, limit in ((2, 9.995), (1, 99.95)) if abs(value) < limit), 0)
    if abs(value) < 0.00995:
        return f"{value:.2g}"
    return f"{value:,.{places}f}"


def aside(report: Report, cost: Cost) -> str:
    """The note beside a median: the multiple of the baseline's, and the spread, if they exist."""
    words = []
    multiple = report.ratio(cost.workload, cost.system)
    if multiple is not None and cost.system != report.baseline:
        words.append(quantity(multiple, "x"))
    if len(cost.values) > 1 and cost.median:
        words.append(share(cost.spread, cost.median))
    return " ".join(words)
