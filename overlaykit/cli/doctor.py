"""`overlaykit doctor`: what this machine can do, and a fix for what it cannot."""

from __future__ import annotations

from typing import Final

from overlaykit.cli import output
from overlaykit.cli.arguments import Parser

_GREEN: Final = 32
_RED: Final = 31


def parser() -> Parser:
    """The command's parser."""
    command = Parser("doctor", "Try what views need, and print a fix for what does not work.")
    command.add_argument("--json", action="store_true", help="for programs: a list of objects")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.views.doctor import checks

    found = list(checks())
    failed = any(not check.ok for check in found)
    if args.json:
        from overlaykit import codec

        print(codec.encode_pretty(found))
        return int(failed)
    for check in found:
        mark = output.coloured("ok  ", _GREEN) if check.ok else output.coloured("FAIL", _RED)
        print(f"{mark}  {check.name}: {check.detail}")
        if not check.ok:
            print(f"      fix: {check.fix}")
    return int(failed)
