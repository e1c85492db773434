"""`overlaykit bench`: what file systems and isolated programs cost here, side by side."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Final

from overlaykit.cli.arguments import Parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from overlaykit.bench.choice import Plan
    from overlaykit.bench.race import Watch
    from overlaykit.bench.results import Report

_EPILOG: Final = """\
The files that are worked on lie in a new directory below $TMPDIR, or below /var/tmp, which is gone at the end: what is
measured is that file system. Without --system each of the known ones takes part whose program is installed.
An ordinary user cannot empty the machine's caches, nor mount the kernel's overlayfs: that is left out, and said so."""

_COLUMNS: Final = 100


def main(arguments: list[str]) -> int:
    args = _parse(arguments)
    from overlaykit.bench import report
    from overlaykit.bench.choice import plan
    from overlaykit.bench.race import Race
    from overlaykit.cli.interruption import Interruption

    chosen = plan(
        quick=args.quick,
        rounds=args.rounds,
        only=args.only,
        named=args.systems,
        targets=args.targets,
        baseline=args.baseline,
    )
    if args.list:
        _list(chosen)
        return 0
    if args.output is not None:
        report.check_output(args.output)
    race = Race(chosen, place=os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108  # in it, one of its own
    try:
        with Interruption() as interruption, _watch() as watch:
            race.run(interruptible=interruption.allowed, watch=watch)
    finally:  # where it ends before its time, what it has found by then is worth showing
        found = race.report()
        if found is not None:
            try:
                if args.output is not None:
                    report.write(found, args.output)
            finally:
                _show(found, as_json=args.json)
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        "bench",
        "Measure what file systems and isolated programs cost, side by side and round by round.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a choice, on fewer files: less than two minutes")
    add("--rounds", type=int, metavar="N", help="how often each is measured (default: 5; quick: 3)")
    add(
        "--only",
        metavar="PATTERN",
        action="append",
        default=[],
        help="only workloads whose name, or group, is like that ('stat', 'fio/seq*')",
    )
    add(
        "--system",
        dest="systems",
        metavar="NAME[=COMMAND]",
        action="append",
        default=[],
        help="only this one of the known systems; or one more, which a command mounts, with {lower}, {upper}, "
        "{target} and, where it needs one, {work} in it",
    )
    add(
        "--target",
        dest="targets",
        metavar="DIR",
        action="append",
        default=[],
        help="one more: a directory that is there, measured as it is, in a new directory below it",
    )
    add("--baseline", metavar="NAME", help="what the others are compared with (default: plain)")
    add("--output", metavar="DIR", help="write report.json, plots and index.html there")
    add("--json", action="store_true", help="for programs: everything, as one object")
    add("--list", action="store_true", help="say what would be done on which systems, and end")
    args = parser.parse_args(arguments)
    if args.rounds is not None and args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: give 1 or more")
    return args


def _list(chosen: Plan) -> None:
    rows = [
        *((workload.name, workload.what) for workload in chosen.workloads),
        ("", ""),
        *((system.name, system.what) for system in chosen.systems),
        *((one.system, f"left out: {one.why}") for one in chosen.left_out),
    ]
    width = max(len(name) for name, _ in rows)
    for name, what in rows:
        print(f"{name:{width}}  {what}".rstrip())


@contextlib.contextmanager
def _watch() -> Iterator[Watch]:
    """A bar on the terminal, if standard error is one."""
    if not sys.stderr.isatty():
        yield lambda workload, entrant, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    # It draws when it is told to: a thread of its own would run beside what is measured.
    bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
    with bar:
        task = bar.add_task("", total=1.0)

        def watch(workload: str, entrant: str, done: float) -> None:
            with contextlib.suppress(OSError):  # whoever watched has gone
                bar.update(task, completed=done, description=f"{workload}: {entrant}", refresh=True)

        yield watch


def _show(found: Report, *, as_json: bool) -> None:
    if as_json:
        from overlaykit import codec

        print(codec.encode_pretty(found))
        return
    from rich.console import Console

    from overlaykit.bench.report import table

    # A file, or whoever reads a pipe, has as many columns as the table is made for.
    Console(width=None if sys.stdout.isatty() else _COLUMNS).print(table(found))
