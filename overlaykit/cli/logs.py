"""`overlaykit logs`: what a detached view has printed."""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from typing import TYPE_CHECKING

from overlaykit.cli.arguments import Parser

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from overlaykit.views import logs

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "logs",
        "Print what the command of a detached view has printed, on the same streams.",
    )
    command.add_argument(
        "-f", "--follow", action="store_true", help="go on until the view is stopped"
    )
    command.add_argument(
        "--since",
        type=_since,
        metavar="TIME",
        help="only what came since then: 2026-11-26T10:00:00, or so long ago: 30s, 10m, 2h, 1d",
    )
    command.add_argument(
        "-t", "--timestamps", action="store_true", help="print the time before each line"
    )
    command.add_argument(
        "--json",
        action="store_true",
        help="for programs: an object for each line; bytes that are not UTF-8 are lone surrogates",
    )
    command.add_argument("view", metavar="VIEW")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.views import logs, named

    view = named.NamedView(args.view)
    show = _print_json if args.json else printer(timestamps=args.timestamps)
    for record in logs.follow(view) if args.follow else logs.read(view):
        if args.since is None or record.time >= args.since:
            show(record)
    return 0


def printer(*, timestamps: bool) -> Callable[[logs.Record], None]:
    """What prints a record to the stream that it came from."""
    sys.stdout.flush()
    begins = {"stdout": True, "stderr": True}

    def show(record: logs.Record) -> None:
        line = record.text + (b"\n" if record.whole else b"")
        if timestamps and begins[record.stream]:
            line = record.time.encode() + b" " + line
        begins[record.stream] = record.whole
        stream = sys.stdout if record.stream == "stdout" else sys.stderr
        stream.buffer.write(line)
        stream.flush()

    return show


def _print_json(record: logs.Record) -> None:
    import json

    text = record.text.decode(errors="surrogateescape")
    found = {"time": record.time, "stream": record.stream, "text": text, "whole": record.whole}
    print(json.dumps(found), flush=True)


def _since(text: str) -> str:
    """A time as the log has it. Raises: ArgumentTypeError."""
    ago = re.fullmatch(r"(\d+)([smhd])", text)
    try:
        if ago:
            seconds = int(ago[1]) * _UNITS[ago[2]]
            when = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
        else:
            when = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    except (OverflowError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: write 2026-11-26T10:00:00, or 30s, 10m, 2h, 1d"
        ) from None
    return f"{when:%Y-%m-%dT%H:%M:%S.%f}"
