"""`overlaykit kill`: send a signal to the commands of views."""

from __future__ import annotations

import argparse
import contextlib
import signal

from overlaykit.cli.arguments import Parser


def parser() -> Parser:
    """The command's parser."""
    command = Parser("kill", "Send a signal to the commands of views; SIGKILL ends all in them.")
    command.add_argument(
        "-s",
        "--signal",
        type=_signal,
        default=signal.SIGKILL,
        metavar="SIGNAL",
        help="its name or number (default: KILL)",
    )
    command.add_argument("views", metavar="VIEW", nargs="+")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.views import ending

    for name in args.views:
        ending.kill(name, args.signal)
    return 0


def _signal(text: str) -> signal.Signals:
    from overlaykit.signals import FORWARDED

    possible = sorted([*FORWARDED, signal.SIGKILL])
    with contextlib.suppress(KeyError, ValueError):
        name = text.upper()
        number = int(text) if text.isdecimal() else signal.Signals[f"SIG{name.removeprefix('SIG')}"]
        if number in possible:
            return signal.Signals(number)
    names = ", ".join(signal.Signals(one).name.removeprefix("SIG") for one in possible)
    raise argparse.ArgumentTypeError(f"{text!r} is none of {names}")
