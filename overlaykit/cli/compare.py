"""`overlaykit compare`: what a command costs as a process, in views and in a machine, side by side."""

from __future__ import annotations

from argparse import REMAINDER, SUPPRESS
from typing import Final

from overlaykit.cli.arguments import Parser
from overlaykit.cli.options import Usage

_USAGE: Final = "overlaykit compare [OPTION]... [--] COMMAND [ARG]..."
_EPILOG: Final = """\
COMMAND runs once a round in each place, without input, and what it prints is not shown: let it be one that can run
again. As a process it changes the files that it changes; what it changes in a view is dropped."""
_ROUNDS: Final = 3


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    command: list[str] = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise Usage("compare", "no command given")
    if args.rounds < 1:
        raise Usage("compare", f"--rounds {args.rounds}: give 1 or more")
    from overlaykit.bench.selection import Plan
    from overlaykit.bench.views import comparison
    from overlaykit.cli import bench

    places = comparison.chosen(args.only)
    plan = Plan(
        workloads=comparison.workloads(command, places),
        systems=(),
        left_out=(),
        baseline=places[0].launcher.name,
        rounds=args.rounds,
    )
    bench.measure(plan, output=args.output, as_json=args.json)
    if not args.json:
        for place in places:
            print(f"{place.launcher.name}: {place.promise}.")
    return 0


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "compare",
        "Measure what a command costs as a process, in a view of each driver, and in a machine: its start, time, "
        "processor time, memory, storage, system calls and network requests.",
        epilog=_EPILOG,
    )
    command.usage = _USAGE
    add = command.add_argument
    add("--only", metavar="PLACE[,PLACE]", help="process, view, vm (default: all)")
    add(
        "--rounds",
        type=int,
        default=_ROUNDS,
        metavar="N",
        help=f"the number of rounds (default: {_ROUNDS})",
    )
    add("--output", metavar="DIR", help="write report.json, plots and index.html there")
    add("--json", action="store_true", help="print all results as a JSON object")
    add("command", nargs=REMAINDER, metavar="COMMAND", help=SUPPRESS)
    return command
