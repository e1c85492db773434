"""What was seen, side by side: a column for each view and one for the host."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from overlaykit.cli.demo.show import Host, Seen

_WIDEST: Final = 100
_LONGEST_PATH: Final = 26
"""In columns: of the table, and of a path's part on one line."""


def show(views: Sequence[Seen], host: Host, notes: Iterable[str]) -> None:
    """Print it on standard output, for a terminal or a file."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.width = min(console.width, _WIDEST) if sys.stdout.isatty() else _WIDEST
    table = Table(show_lines=True)
    table.add_column("")
    for heading in (*(f"{view.name} view" for view in views), "host"):
        table.add_column(heading, overflow="fold", ratio=1)
    for row in _rows(views, host):
        table.add_row(*row)
    console.print(table)
    ended = "Both views have ended: none of their processes, mounts and files is left."
    for note in (*notes, ended):
        print(textwrap.fill(note, _WIDEST, break_on_hyphens=False))


def _rows(views: Sequence[Seen], host: Host) -> Iterable[Sequence[str]]:
    yield (
        "/usr/bin/python",
        *(f"Python {view.page.version}" for view in views),
        host.python or "absent",
    )
    yield ("the file behind it", *(_from_home(view.real_file) for view in views), "")
    ports = [f"{view.port.address}:{view.port.host} on the host" for view in views]
    yield ("port 80 of the view", *ports, "")
    yield ("processes seen", *(str(view.page.processes) for view in views), str(host.processes))
    for view in views:
        seen_in = (*view.own_file_in, view.own_file_on_host)
        yield (
            f"a file written in the {view.name} view",
            *("there" if there else "absent" for there in seen_in),
        )


def _from_home(path: str) -> str:
    """The path as a shell's user would write it, on lines that end with a slash."""
    home = os.path.expanduser("~")
    short = "~" + path.removeprefix(home) if path.startswith(home + "/") else path
    lines = [""]
    for part in re.findall("[^/]*/|[^/]+", short):
        if len(lines[-1] + part) > _LONGEST_PATH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
