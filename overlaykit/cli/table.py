"""Tables on standard output: folded to the width of a terminal; in a pipe or a file, each row is one line."""

from __future__ import annotations

import datetime
import sys
from typing import TYPE_CHECKING

from overlaykit.cli.output import has_colours, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

_UNFOLDED = 1 << 16


def show(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))  # brackets in a name are no markup
    console(_UNFOLDED).print(table)


def time_of(nanoseconds: int) -> str:
    """A time since the epoch, for people: here, to the second."""
    return f"{datetime.datetime.fromtimestamp(nanoseconds / 1e9):%F %T}"


def console(columns: int) -> Console:
    """Standard output as rich writes it. `columns`: the width where it is no terminal."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    # Not what FORCE_COLOR and the like say.
    return Console(
        highlight=False,
        width=None if is_terminal else columns,
        force_terminal=is_terminal,
        color_system="standard" if has_colours() else None,
    )
