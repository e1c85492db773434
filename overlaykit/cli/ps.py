"""`overlaykit ps`: the views and mounts that are running."""

from __future__ import annotations

import datetime
import shlex
from typing import TYPE_CHECKING

from overlaykit.cli.arguments import Parser
from overlaykit.cli.table import show

if TYPE_CHECKING:
    from overlaykit.views.entry import About


def parser() -> Parser:
    """The command's parser."""
    command = Parser("ps", "List the views and mounts that are running, oldest first.")
    command.add_argument("--json", action="store_true", help="for programs: a list of objects")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.views import Registry

    running = [one.about for one in Registry().running()]
    if args.json:
        from overlaykit import codec

        print(codec.encode_pretty(running))
        return 0
    show(
        ("NAME", "PID", "STARTED", "LAYERS", "UPPER", "PORTS", "COMMAND OR MOUNTPOINT"),
        map(_row, running),
    )
    return 0


def _row(about: About) -> tuple[str, ...]:
    started = datetime.datetime.fromtimestamp(about.started / 1e9)
    return (
        about.name,
        str(about.pid),
        f"{started:%F %T}",
        ":".join(about.layers),
        about.upper or "",
        " ".join(about.ports),
        _where(about) if about.target else shlex.join(about.command),
    )


def _where(about: About) -> str:
    """The mountpoint in this mount namespace, or else the one at mount time."""
    from overlaykit.fuse import mountpoints

    shown = mountpoints.of_device(about.device)
    return shown[0].mountpoint if shown else f"{about.target} (not mounted here)"
