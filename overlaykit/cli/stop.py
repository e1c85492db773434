"""`overlaykit stop`: end views, with time to do so."""

from __future__ import annotations

from typing import Final

from overlaykit.cli.arguments import Parser, seconds

_SECONDS: Final = 10.0
"""As podman waits."""


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
        type=seconds,
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
