"""The parser of a command's arguments: argparse, but a mistake is one line and overlaykit's own exit status."""

from __future__ import annotations

import argparse
import contextlib

from overlaykit.cli.options import LAYERS, Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, NoReturn

_MAX_SECONDS: Final = 1_000_000
"""poll(2) takes an int of milliseconds."""


class Parser(argparse.ArgumentParser):
    """The parser of one command."""

    def __init__(self, command: str, description: str, **options: object) -> None:
        self.command = command
        super().__init__(
            prog=f"overlaykit {command}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=str(options.get("epilog") or ""),
        )

    def add_layers(self, what: str = LAYERS["help"]) -> None:
        """Add `-l`, which may be given several times: `layers`, of an upper that no view or mount has."""
        self.add_argument("-l", **LAYERS | {"help": what})

    def format_help(self) -> str:
        from overlaykit.cli.examples import EXAMPLES

        text = super().format_help()
        shown = EXAMPLES.get(self.command, ())
        return f"{text}\nexamples:\n{_listed(shown)}" if shown else text

    def error(self, message: str) -> NoReturn:
        raise Usage(self.command, message)


def seconds(text: str) -> float:
    """The `type` of an option that says how long to wait. Raises: argparse.ArgumentTypeError."""
    with contextlib.suppress(ValueError):
        if 0 <= (found := float(text)) <= _MAX_SECONDS:
            return found
    raise argparse.ArgumentTypeError(f"{text!r}: give a number of seconds from 0 to {_MAX_SECONDS}")


def _listed(examples: Sequence[tuple[str, str]]) -> str:
    return "".join(f"  {words}\n      {what}\n" for words, what in examples)
