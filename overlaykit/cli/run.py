"""`overlaykit run`: a command in a view of its own."""

from __future__ import annotations

import argparse
import os
from typing import Final

from overlaykit import signals
from overlaykit.cli.arguments import Parser, Usage

_EPILOG: Final = """\
The exit status is the command's, 128+N if signal N ended it, 127 if there is no such command, 126 if it cannot be
executed, 125 if overlaykit itself failed."""


def main(arguments: list[str]) -> int:
    parser = _parser()
    args = parser.parse_args(arguments)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("no command given")
    with signals.held():
        from overlaykit.namespace import parse_bind, parse_port
        from overlaykit.views import View

    with View(
        args.layers or ("host",),
        upper=args.upper,
        read_only=args.read_only,
        name=args.name,
        network=args.network,
        binds=[parse_bind(text) for text in args.binds],
        ports=[parse_port(text) for text in args.ports],
    ) as view:
        return view.run(command, env=_environment(args.env), cwd=args.cwd)


def _environment(settings: list[str]) -> dict[str, str]:
    environment = dict(os.environ)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise Usage("run", f"-e {setting}: give KEY=VALUE")
        environment[key] = value
    return environment


def _parser() -> Parser:
    parser = Parser(
        "run",
        "Run a command in its own view of files, processes, network and host name.",
        epilog=_EPILOG,
    )
    parser.usage = "overlaykit run [OPTION]... [--] COMMAND [ARG]..."
    add = parser.add_argument
    add(
        "-l",
        dest="layers",
        metavar="LAYER",
        action="append",
        default=[],
        help="a layer: 'host', a name of the store, or a directory; top first (default: host)",
    )
    changes = parser.add_mutually_exclusive_group()
    changes.add_argument(
        "--upper", metavar="DIR", help="keep what is written in DIR (default: drop it at the end)"
    )
    changes.add_argument(
        "--read-only", action="store_true", help="refuse to write (EROFS), instead of dropping it"
    )
    add(
        "-v",
        dest="binds",
        metavar="SRC:DST[:ro]",
        action="append",
        default=[],
        help="share the host's SRC with the view at DST",
    )
    add(
        "-p",
        dest="ports",
        metavar="[IP:]HOST:PORT",
        action="append",
        default=[],
        help="publish the view's TCP port PORT as the host's HOST (default IP: 127.0.0.1)",
    )
    add("--name", help="the view's name and host name (default: made up)")
    add(
        "--network",
        choices=("private", "host", "none"),
        default="private",
        help="'private': its own, with published ports and no way out; 'host': the host's, which reaches what"
        " the host reaches; 'none': its own, with no ports (default: private)",
    )
    add(
        "-e",
        dest="env",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set an environment variable",
    )
    add(
        "-w",
        dest="cwd",
        metavar="DIR",
        help="the working directory (default: the current one if the view has it, else /)",
    )
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser
