"""`overlaykit stop`: end views, with time to do so."""

from __future__ import annotations

import argparse
import contextlib
from typing import Final

from overlaykit.cli.arguments import Parser

_SECONDS: Final = 10.0
"""As podman waits."""
_MAX_SECONDS: Final = 1_000_000
"""poll(2) takes an int of milliseconds."""


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "stop",
        "Send SIGTERM to the commands of views, and kill those that have not ended after a time.",
    )
    add_time(command)
    command.add_argument("views", metavar="VIEW", nargs="+")
    return command


def add_time(command: Parser) -> None:
    """Add the option that says how long a command may take to end."""
    command.add_argument(
        "-t",
        "--time",
        type=_seconds,
        default=_SECONDS,
        metavar="SECONDS",
        help=f"the time (default: {_SECONDS:g})",
    )


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.views import ending

    for name in args.views:
        ending.stop(name, args.time)
    return 0


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) <= _MAX_SECONDS:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r}: give a number of seconds from 0 to {_MAX_SECONDS}")
