"""The style of figures, and reproducible SVG in colours that a page can replace."""

from __future__ import annotations

import io
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK: Final = "#1f2329"
FAINT_INK: Final = "#646c77"
GRID: Final = "#d9dee4"
PAPER: Final = "#fefefe"
_VARIABLES: Final = {INK: "--ink", FAINT_INK: "--faint", GRID: "--grid", PAPER: "--paper"}
"""Colours that `Drawing.inline` replaces by CSS variables; no other colour has their values."""

OURS: Final = "#2f7de1"
_OTHERS: Final = (
    "#e0803a",  # distinct for the colour-blind, on light and on dark
    "#1fa187",
    "#b967c7",
    "#c9a021",
    "#d9527a",
    "#5fb3ce",
    "#8c6d4f",
    "#8a7fe0",
)
_BASELINE: Final = "#8a929c"

_SETTINGS: Final[dict[str, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": FAINT_INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": PAPER,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.edgecolor": "none",
    "legend.facecolor": "none",
    "legend.fontsize": 9,
    "legend.labelcolor": INK,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",  # text, not outlines: smaller and searchable
    "svg.hashsalt": "overlaykit",
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name stays one
    "xtick.color": FAINT_INK,
    "xtick.labelcolor": FAINT_INK,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.color": FAINT_INK,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}

WIDTH: Final = 8.6
"""Inches; at 100 pixels an inch the width of the page's text."""

_NAME_WIDTH: Final = 30
"""Characters."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure. `name`: its file name without `.svg`; `about`: a caption of one line; `svg`: the document."""

    name: str
    title: str
    about: str
    svg: str

    def inline(self) -> str:
        """The `svg` element for a page: the page's colours, and ids unique within it."""
        element = self.svg[self.svg.index("<svg") :]
        for colour, variable in _VARIABLES.items():
            element = element.replace(colour, f"var({variable})")
        used = set(re.findall(r"#([\w-]+)", element))
        element = re.sub(
            r' id="([^"]+)"',
            lambda m: f' id="{self.name}-{m[1]}"' if m[1] in used else "",
            element,
        )
        element = re.sub(r'(url\(#|href="#)', rf"\g<1>{self.name}-", element)
        return element.replace("<svg", f'<svg role="img" aria-label="{self.name}"', 1)


def canvas(height: float) -> tuple[Figure, Axes]:
    """An empty figure, `height` inches high, and its axes. Requires: the context `style`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def style() -> Any:
    """A context manager that sets our style for figures, independent of the user's matplotlibrc."""
    import matplotlib

    settings: dict[Any, Any] = dict(matplotlib.rcParamsDefault) | _SETTINGS
    return matplotlib.rc_context(settings)


def svg(figure: Figure) -> str:
    """The figure as an SVG document without a date and random ids."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(text, metadata={"Date": None})
    return text.getvalue()


def folded(name: str) -> str:
    """The label of a workload, on two lines if it is long."""
    lines = textwrap.wrap(name, max(_NAME_WIDTH, len(name) // 2 + 4), max_lines=2, placeholder=" …")
    return "\n".join(lines)


def colours(systems: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour for each system, the same in all figures of a report."""
    others = [name for name in systems if name not in (baseline, "overlaykit")]
    found = {name: _OTHERS[n % len(_OTHERS)] for n, name in enumerate(others)}
    return {"overlaykit": OURS, **found, baseline: _BASELINE}
