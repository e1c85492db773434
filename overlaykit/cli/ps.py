"""`overlaykit ps`: the views and mounts that are running."""

from __future__ import annotations

import datetime
import shlex

from overlaykit.cli.arguments import Parser


def main(arguments: list[str]) -> int:
    parser = Parser("ps", "List the views and mounts that are running, oldest first.")
    parser.add_argument("--json", action="store_true", help="for programs: a list of objects")
    args = parser.parse_args(arguments)
    from overlaykit.views import Registry

    running = [one.about for one in Registry().running()]
    if args.json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(running)).decode())
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("NAME", "PID", "STARTED", "LAYERS", "UPPER", "PORTS", "COMMAND OR MOUNTPOINT"):
        table.add_column(heading, overflow="fold")
    for about in running:
        started = datetime.datetime.fromtimestamp(about.started / 1e9)
        table.add_row(
            about.name,
            str(about.pid),
            f"{started:%F %T}",
            ":".join(about.layers),
            about.upper or "",
            " ".join(about.ports),
            about.target or shlex.join(about.command),
        )
    Console(soft_wrap=True, highlight=False).print(table)
    return 0
