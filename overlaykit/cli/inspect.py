"""`overlaykit inspect`: all about a view, as JSON."""

from __future__ import annotations

from overlaykit.cli.arguments import Parser


def parser() -> Parser:
    """The command's parser."""
    command = Parser("inspect", "Print all that is known of views, as a list of JSON objects.")
    command.add_argument("--json", action="store_true", help="the only form: accepted for programs")
    command.add_argument("views", metavar="VIEW", nargs="+")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit import codec
    from overlaykit.views import listing

    print(codec.encode_pretty([listing.find(name) for name in args.views]))
    return 0
