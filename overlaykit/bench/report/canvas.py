"""How every figure looks, and how it becomes SVG: the same bytes each time, in colours that a page can change."""

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
"""Colours that appear nowhere else, so that they can be found in the SVG again."""

OURS: Final = "#2f7de1"
_OTHERS: Final = (
    "#e0803a",  # told apart by the colour-blind too, on light and on dark
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
    "svg.fonttype": "none",  # letters stay letters: smaller, and can be searched
    "svg.hashsalt": "overlaykit",
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is one
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
"""Inches; at 100 pixels each as wide as a page's text."""

_NAME_WIDTH: Final = 30
"""Letters."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure. `name`: of its file, without `.svg`; `about`: what one sees, in a line; `svg`: the document."""

    name: str
    title: str
    about: str
    svg: str

    def inline(self) -> str:
        """The `svg` element for a page, in the page's colours, with no id that another figure has."""
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
    """An empty figure, `height` inches high, and its axes. Call it, and draw on it, inside of `look`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def look() -> Any:
    """A context manager: figures made inside look as ours do, whatever the user's matplotlibrc says."""
    import matplotlib

    settings: dict[Any, Any] = dict(matplotlib.rcParamsDefault) | _SETTINGS
    return matplotlib.rc_context(settings)


def svg(figure: Figure) -> str:
    """The figure as a document of its own. No date, no random ids."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(text, metadata={"Date": None})
    return text.getvalue()


def folded(name: str) -> str:
    """A workload's name beside its bars: on two lines if it is long."""
    lines = textwrap.wrap(name, max(_NAME_WIDTH, len(name) // 2 + 4), max_lines=2, placeholder=" …")
    return "\n".join(lines)


def colours(systems: Sequence[str], baseline: str) -> dict[str, str]:
    """One for each system, the same in all figures of a report."""
    others = [name for name in systems if name not in (baseline, "overlaykit")]
    found = {name: _OTHERS[n % len(_OTHERS)] for n, name in enumerate(others)}
    return {"overlaykit": OURS, **found, baseline: _BASELINE}
