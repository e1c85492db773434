"""`overlaykit doctor`: what this machine can do, and a fix for what it cannot."""

from __future__ import annotations

from overlaykit.cli.arguments import Parser


def parser() -> Parser:
    """The command's parser."""
    return Parser("doctor", "Try what views need, and print a fix for what does not work.")


def main(arguments: list[str]) -> int:
    parser().parse_args(arguments)
    from overlaykit.views.doctor import checks

    failed = False
    for check in checks():
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}")
        if not check.ok:
            failed = True
            print(f"      fix: {check.fix}")
    return int(failed)
