"""Tables on standard output: folded to the width of a terminal; in a pipe or a file, each row is one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overlaykit.cli.output import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_UNFOLDED = 1 << 16


def show(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))  # brackets in a name are no markup
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _UNFOLDED
    console.print(table)
