"""The parser of a command's arguments: argparse, but a mistake is one line and overlaykit's own exit status."""

from __future__ import annotations

import argparse
from typing import NoReturn

from overlaykit.cli.options import Usage


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

    def error(self, message: str) -> NoReturn:
        raise Usage(self.command, message)
