"""`overlaykit bench`: measure what file systems and launchers cost, side by side."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Final

from overlaykit.cli.arguments import Parser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlaykit.bench.results import Report
    from overlaykit.bench.runner import OnProgress
    from overlaykit.bench.selection import Plan

_EPILOG: Final = """\
The workloads use a temporary directory below $TMPDIR, or below /var/tmp, so they measure that file system. Without
--system all known systems are measured whose program is installed. An ordinary user cannot empty the machine's caches
or mount the kernel's overlayfs; the report lists what is left out."""

_COLUMNS: Final = 100


def main(arguments: list[str]) -> int:
    command = parser()
    args = command.parse_args(arguments)
    if args.rounds is not None and args.rounds < 1:
        command.error(f"--rounds {args.rounds}: give 1 or more")
    from overlaykit.bench.selection import plan

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
    measure(chosen, output=args.output, as_json=args.json)
    return 0


def measure(chosen: Plan, *, output: str | None, as_json: bool) -> None:
    """Run a plan, write its report into the directory `output`, if there is one, and print it.

    Raises: Error, SystemExit: a signal ended the run.
    """
    from overlaykit.bench import report
    from overlaykit.bench.runner import Runner
    from overlaykit.cli.interruption import Interruption

    if output is not None:
        report.check_output(output)
    # The runner makes a directory of its own there.
    runner = Runner(chosen, parent=os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108
    try:
        with Interruption() as interruption, _progress() as on_progress:
            runner.run(interruptible=interruption.allowed, on_progress=on_progress)
    finally:  # an interrupted run shows its finished workloads
        found = runner.report()
        if found is not None:
            try:
                if output is not None:
                    report.write(found, output)
            finally:
                _show(found, as_json=as_json)


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "bench",
        "Measure what file systems and isolated programs cost, side by side and round by round.",
        epilog=_EPILOG,
    )
    add = command.add_argument
    add(
        "--quick",
        action="store_true",
        help="a selection of workloads on fewer files: less than two minutes",
    )
    add("--rounds", type=int, metavar="N", help="the number of rounds (default: 5; quick: 3)")
    add(
        "--only",
        metavar="PATTERN",
        action="append",
        default=[],
        help="only workloads whose name or group matches ('stat', 'fio/seq*')",
    )
    add(
        "--system",
        dest="systems",
        metavar="NAME[=COMMAND]",
        action="append",
        default=[],
        help="only this known system; or an additional one that a command mounts, with {lower}, {upper}, {target} "
        "and, where it needs one, {work}",
    )
    add(
        "--target",
        dest="targets",
        metavar="DIR",
        action="append",
        default=[],
        help="an additional system: an existing directory; the run measures a new one below it",
    )
    add("--baseline", metavar="NAME", help="the system to compare with (default: plain)")
    add("--output", metavar="DIR", help="write report.json, plots and index.html there")
    add("--json", action="store_true", help="print all results as a JSON object")
    add("--list", action="store_true", help="list the workloads and systems, and end")
    return command


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
def _progress() -> Iterator[OnProgress]:
    """A progress bar, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda workload, subject, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    # No refresh thread: it would run during the measurements.
    bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
    with bar:
        task = bar.add_task("", total=1.0)

        def show_progress(workload: str, subject: str, done: float) -> None:
            with contextlib.suppress(OSError):  # the terminal has gone
                bar.update(task, completed=done, description=f"{workload}: {subject}", refresh=True)

        yield show_progress


def _show(found: Report, *, as_json: bool) -> None:
    if as_json:
        from overlaykit import codec

        print(codec.encode_pretty(found))
        return
    from overlaykit.bench.report import table
    from overlaykit.cli.table import console

    # The width that the table is designed for.
    console(_COLUMNS).print(table(found))
