"""`overlaykit rename`: give a named view another name."""

from __future__ import annotations

from overlaykit.cli.arguments import Parser


def parser() -> Parser:
    """The command's parser."""
    command = Parser("rename", "Give a view that is stopped another name.")
    command.add_argument("view", metavar="VIEW")
    command.add_argument("name", metavar="NAME")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.views import named

    named.NamedView(args.view).rename(args.name)
    return 0
