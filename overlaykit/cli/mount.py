"""`overlaykit mount`: layers over a directory, with the options of `mount -t overlay`."""

from __future__ import annotations

import textwrap

from overlaykit.cli import output
from overlaykit.cli.arguments import Parser


class _Parser(Parser):
    """A parser whose help ends with the mount options, which only the help loads."""

    def format_help(self) -> str:
        from overlaykit.views.options.table import Effect, describe

        lines: list[str] = []
        for effect in Effect:
            lines.append(f"options {effect.value}:" if lines else "options of -o:")
            for names, text in describe(effect):
                lines.append(f"  {names}")
                lines += textwrap.wrap(
                    text.replace("`", ""), 110, initial_indent="      ", subsequent_indent="      "
                )
        self.epilog = "\n".join(lines)
        return super().format_help()


def parser() -> Parser:
    """The command's parser."""
    command = _Parser("mount", "Mount layers over a directory, as 'mount -t overlay' does.")
    command.add_argument(
        "-o",
        dest="options",
        metavar="OPTIONS",
        action="append",
        required=True,
        help="separated by commas, see below; several -o add up, and a later option wins",
    )
    command.add_argument(
        "--data-plane", choices=("on", "off"), help="the same as -o data_plane=on or data_plane=off"
    )
    command.add_argument(
        "--data",
        choices=("cache", "passthrough", "auto"),
        help="the same as -o data=cache, data=passthrough or data=auto",
    )
    command.add_argument(
        "--no-restart",
        action="store_true",
        help="the same as -o restart=off: the mount ends when its daemon is killed",
    )
    command.add_argument("--name", help="a name for 'ps' and 'explain' (default: made up)")
    command.add_argument("target", metavar="TARGET", help="a directory")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.views import mount, parse_options

    options = parse_options(
        *args.options,
        *([] if args.data_plane is None else [f"data_plane={args.data_plane}"]),
        *([] if args.data is None else [f"data={args.data}"]),
        *(["restart=off"] if args.no_restart else []),
    )
    for note in options.notes:
        output.print_error(note)
    mount(options, args.target, name=args.name, warn=output.print_error)
    return 0
