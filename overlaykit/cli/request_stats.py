"""The requests of views, as a table, as JSON and as Prometheus's text (`overlaykit stats --requests`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from overlaykit.fuse.statistics import bound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from overlaykit.fuse.control import Measured
    from overlaykit.fuse.statistics import Latencies

_NAME: Final = "overlaykit_request_seconds"
_SECOND: Final = 1e9
_MICROSECOND: Final = 1e3


def show(measured: Mapping[str, Measured]) -> None:
    """Print a table, of each view the most expensive kinds first."""
    from overlaykit.cli import table

    rows = [
        (
            view,
            kind,
            by,
            f"{one.count:,}",
            f"{one.nanoseconds / _SECOND:.3f}",
            f"{one.nanoseconds / one.count / _MICROSECOND:.1f}",
            _microseconds(one.below(0.5)),
            _microseconds(one.below(0.99)),
        )
        for view, by, kind, one in sorted(
            _kinds(measured), key=lambda row: (row[0], -row[3].nanoseconds)
        )
    ]
    headings = ("NAME", "REQUEST", "BY", "NUMBER", "SECONDS", "MEAN US", "HALF BELOW", "99% BELOW")
    table.show(headings, rows)


def as_json(measured: Mapping[str, Measured]) -> str:
    from overlaykit import codec

    return codec.encode_pretty(
        [
            {
                "name": view,
                "request": kind,
                "by": by,
                "count": one.count,
                "nanoseconds": one.nanoseconds,
                "below": [
                    {"nanoseconds": None if math.isinf(limit) else int(limit), "count": number}
                    for limit, number in _classes(one)
                ],
            }
            for view, by, kind, one in _kinds(measured)
        ]
    )


def as_prometheus(measured: Mapping[str, Measured]) -> str:
    """The text format of Prometheus, version 0.0.4: one histogram, whose buckets add up."""
    lines = [
        f"# HELP {_NAME} Time that the daemon of a view has spent on requests of the kernel.",
        f"# TYPE {_NAME} histogram",
    ]
    for view, by, kind, one in _kinds(measured):
        labels = f'view="{_escaped(view)}",request="{kind}",by="{by}"'
        total = 0
        for limit, number in _classes(one):
            total += number
            le = "+Inf" if math.isinf(limit) else f"{limit / _SECOND:.9g}"
            lines.append(f'{_NAME}_bucket{{{labels},le="{le}"}} {total}')
        lines.append(f"{_NAME}_sum{{{labels}}} {one.nanoseconds / _SECOND:.9g}")
        lines.append(f"{_NAME}_count{{{labels}}} {one.count}")
    return "\n".join(lines)


def _kinds(measured: Mapping[str, Measured]) -> Iterator[tuple[str, str, str, Latencies]]:
    for view, one in measured.items():
        for by, kinds in (("python", one.python), ("native", one.native)):
            for kind, latencies in sorted(kinds.items()):
                if latencies.count:
                    yield view, by, kind, latencies


def _classes(one: Latencies) -> Iterator[tuple[float, int]]:
    return ((bound(at), number) for at, number in enumerate(one.numbers))


def _microseconds(nanoseconds: float) -> str:
    return "-" if math.isinf(nanoseconds) else f"{nanoseconds / _MICROSECOND:.0f}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
