"""`overlaykit apply`: write what a view has changed into the layer below it, and take that back."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import sys

from overlaykit import signals
from overlaykit.cli import progress
from overlaykit.cli.arguments import Parser
from overlaykit.cli.options import Usage
from overlaykit.cli.output import (
    ReaderGone,
    StdoutUnwritable,
    discard_stdout,
    one_line,
    print_error,
)
from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from typing import Any, Final

    from overlaykit.changes.applying import Outcome
    from overlaykit.changes.run import Request
    from overlaykit.client import Stack

_CONFLICTS: Final = 1
_LETTERS: Final = {"added": "A", "changed": "M", "deleted": "D", "renamed": "R", "replaced": "T"}

_EPILOG: Final = """\
Where the layer has changed, too, since the view began, nothing is written, each such path is listed, and the exit
status is 1. Otherwise all is written or nothing, also if this is killed or the machine stops: --resume finishes then,
--undo takes back what was done. --undo also works later, until --drop: what was displaced is kept in the directory
.overlaykit-apply of the layer.

The files of the view's upper are moved, and the view is as if it were new; with PATH, --to or --keep they are copied
and stay. New set-ID programs, capabilities and devices are listed in any case. The view must not run, and no other
view may use the layer until it ends."""


class ViewRuns(Error):
    message = "{0}: the view is running: end it first ('overlaykit stop {0}')"


class MountIsUsed(Error):
    message = "{0}: its upper is mounted: unmount it first ('overlaykit umount')"


class PointStays(Error):
    message = "{0}: a snapshot is not applied by itself: 'overlaykit restore' or 'branch' makes a view of it first"


class NoTarget(Error):
    message = "{0}: it has {1} layers: name the directory to write to (--to)"


class DiskKeeps(Error):
    message = (
        "{0}: a machine, whose disk keeps what it wrote: name the directory to write to (--to)"
    )


class NoLayer(Error):
    message = "{0}: nothing says what it lies on: name the directory (-l)"


class LayerOfStore(Error):
    message = "{0}: a layer of the store does not change: name the directory to write to (--to)"


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "apply",
        "Write what a view has changed into the directory below it, whole or not at all.",
        epilog=_EPILOG,
    )
    command.usage = (
        "overlaykit apply [OPTION]... VIEW|UPPER [PATH]...\n"
        "       overlaykit apply --resume|--undo|--drop VIEW|DIR"
    )
    command.add_argument(
        "--to",
        metavar="DIR",
        help="write to this directory, a copy of the layers (default: the layer, if there is one)",
    )
    command.add_layers("the layer below the directory of an upper, as of 'run'")
    choice = command.add_mutually_exclusive_group()
    choice.add_argument(
        "--theirs",
        dest="choice",
        action="store_const",
        const="theirs",
        default="",
        help="where the layer has changed, too, write what the view has",
    )
    choice.add_argument(
        "--ours",
        dest="choice",
        action="store_const",
        const="ours",
        help="where the layer has changed, too, keep what it has",
    )
    command.add_argument(
        "--merge",
        action="store_true",
        help="where both have changed a text, write both changes, if they do not touch each other and the view has"
        " kept the original ('try' and 'run --keep-originals' do, up to 1 MiB); --theirs or --ours is for the rest",
    )
    command.add_argument(
        "--keep", action="store_true", help="copy the upper's files instead of moving them"
    )
    command.add_argument(
        "-n", "--dry-run", action="store_true", help="only list what would be written"
    )
    command.add_argument("--json", action="store_true", help="for programs: an object")
    later = command.add_mutually_exclusive_group()
    later.add_argument(
        "--resume", action="store_true", help="finish an application that was cut off"
    )
    later.add_argument("--undo", action="store_true", help="take the last application back")
    later.add_argument(
        "--drop", action="store_true", help="remove what --undo needs, of all applications"
    )
    command.add_argument(
        "--force",
        action="store_true",
        help="with --undo: also what was changed since, and where the upper is gone",
    )
    command.add_argument("view", metavar="VIEW|UPPER|DIR", help="a view's name, or a directory")
    command.add_argument(
        "paths", metavar="PATH", nargs="*", help="only these paths, and what is below them"
    )
    return command


def main(arguments: list[str]) -> int:
    # This process ends with the application, whose objects all stay until then.
    gc.disable()
    args = parser().parse_intermixed_args(arguments)
    if args.resume or args.undo or args.drop:
        return _later(args)
    if args.force:
        raise Usage("apply", "--force is for --undo")
    if any(not path.strip("/.") for path in args.paths):
        raise Usage("apply", "a path stands for all: leave it out")
    from overlaykit.cli import stacks

    with contextlib.ExitStack() as until:
        stack = stacks.find(args.view, args.layers, disks=stacks.Disks(until))
        if stack.point:
            raise PointStays(args.view)
        return _apply_stack(stack, args)


def _apply_stack(stack: Stack, args: argparse.Namespace) -> int:
    from overlaykit.changes.run import Request
    from overlaykit.cli import areas

    _check_ended(stack)
    if stack.disk and args.to is None:
        raise DiskKeeps(stack.name)

    if args.to is None and areas.is_of_host(stack):
        with _unused(stack), signals.unwound(), progress.shown():
            outcome, directories = areas.apply(
                stack,
                paths=[os.path.join("/", path) for path in args.paths],
                choice=args.choice,
                merges=args.merge,
                consumes=not args.keep,
                dry_run=args.dry_run,
            )
            left = 0 if args.paths or outcome.conflicts else areas.count_left(stack)
        if left:
            print_error(areas.describe_left(stack, left))
        _say_kept(stack, outcome, args)
        return _report(outcome, args, *(directories or ("/",)))
    target = _target(stack, args.to)
    assert stack.upper is not None
    request = Request(
        upper=os.path.realpath(stack.upper),
        frozen=tuple(map(os.path.realpath, stack.frozen)),
        lowers=tuple(map(os.path.realpath, stack.layers)),
        paths=tuple(args.paths),
        choice=args.choice,
        merges=args.merge,
        consumes=not (args.keep or args.paths or args.to or stack.frozen),
    )
    with _unused(stack), signals.unwound(), progress.shown():
        outcome = _apply(target, request, dry_run=args.dry_run)
    _say_kept(stack, outcome, args)
    return _report(outcome, args, target)


def _say_kept(stack: Stack, outcome: Outcome, args: argparse.Namespace) -> None:
    """Say that a view with snapshots, which never change, still has what was applied."""
    is_kept = args.keep or args.paths or args.to or args.dry_run
    if stack.frozen and outcome.written and not outcome.conflicts and not is_kept:
        print_error(
            f"{stack.name}: it keeps its snapshots, and what was applied in them: 'overlaykit restore {stack.name}"
            " start' has it show the layer alone"
        )


def _apply(target: str, request: Request, *, dry_run: bool = False) -> Outcome:
    from overlaykit.changes import applying
    from overlaykit.changes.opening import open_stack
    from overlaykit.changes.read import Comparison

    upper, lowers = open_stack(request.upper, request.frozen, request.lowers)
    with Comparison.of_upper(upper, lowers, os.fsencode(request.within)) as comparison:
        return applying.apply(comparison, target, request, dry_run=dry_run)


def _later(args: argparse.Namespace) -> int:
    from overlaykit.changes import applying
    from overlaykit.changes.model import STATE

    if args.paths or args.keep or args.dry_run or args.choice or args.merge:
        raise Usage("apply", "--resume, --undo and --drop take no other option but --to and --json")
    if args.force and not args.undo:
        raise Usage("apply", "--force is for --undo")
    with contextlib.ExitStack() as context:
        targets: Sequence[str] = (args.to or args.view,)
        if args.to is None and not os.path.isdir(os.path.join(args.view, os.fsdecode(STATE))):
            from overlaykit.cli import stacks

            disks = stacks.Disks(context, contents=False)
            stack = stacks.find(args.view, args.layers, disks=disks)
            if stack.point:
                raise PointStays(args.view)
            _check_ended(stack)
            if stack.disk:
                raise DiskKeeps(stack.name)
            if not stack.assumed:  # else it is a directory to which nothing was applied
                targets = _applied(stack)
            context.enter_context(_unused(stack))
        context.enter_context(signals.unwound())
        context.enter_context(progress.shown())
        status = 0
        for target in targets if args.undo and len(targets) > 1 else ():  # all or none
            applying.undo(target, force=args.force, dry_run=True)
        for target in targets:
            if args.undo:
                applying.undo(target, force=args.force)
            elif args.drop:
                applying.drop(target)
            else:
                outcome = applying.resume(target, functools.partial(_apply, target))
                status = max(status, _report(outcome, args, target))
    return status


def _applied(stack: Stack) -> Sequence[str]:
    """The directories to which a view was applied last. Raises: NothingApplied, Error."""
    from overlaykit.cli import areas

    if not areas.is_of_host(stack):
        return (_target(stack, None),)
    found = areas.applied(stack)
    if not found:
        from overlaykit.changes.state import NothingApplied

        raise NothingApplied(stack.name, "take back or finish")
    return found


def _check_ended(stack: Stack) -> None:
    if stack.running is not None:
        raise MountIsUsed(stack.name) if stack.running.target else ViewRuns(stack.name)


def _target(stack: Stack, to: str | None) -> str:
    if to is not None:
        return os.path.realpath(to)
    if stack.assumed:
        raise NoLayer(stack.name)
    if len(stack.layers) != 1:
        raise NoTarget(stack.name, len(stack.layers))
    from overlaykit.layers.store import Store

    layer = os.path.realpath(stack.layers[0])
    if os.path.dirname(layer).startswith(os.path.realpath(Store().root) + "/"):
        raise LayerOfStore(stack.name)
    return layer


@contextlib.contextmanager
def _unused(stack: Stack) -> Iterator[None]:
    """Keep a named view from starting. Raises: named.ViewRuns."""
    from overlaykit.views.named import NamedView, NoSuchView
    from overlaykit.views.places import NoHome

    lock = -1
    with contextlib.suppress(NoSuchView, NoHome):
        lock = NamedView(stack.name).lock()
    try:
        yield
    finally:
        if lock >= 0:
            os.close(lock)


def from_root(outcome: Outcome, *, every: bool) -> Outcome:
    """The same with a slash before each path, as `diff` prints them. `every`: also of all that was written."""

    def rooted(records: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            one.replace(
                **{
                    name: "/" + ("" if value == "." else value)
                    for name, value in vars(one).items()
                    if name in ("path", "old_path") and value is not None
                }
            )
            for one in records
        )

    return outcome.replace(
        **{
            name: rooted(records)
            for name, records in vars(outcome).items()
            if every or name != "written"
        }
    )


def _report(outcome: Outcome, args: argparse.Namespace, *targets: str) -> int:
    outcome = from_root(outcome, every=args.json or args.dry_run)
    try:
        if args.json:
            from overlaykit import codec

            print(codec.encode_pretty(outcome))
        else:
            _print(outcome, targets, every=args.dry_run)
        sys.stdout.flush()
    except (StdoutUnwritable, ReaderGone) as error:
        if args.dry_run or outcome.conflicts:
            raise
        discard_stdout()
        if isinstance(error, StdoutUnwritable):
            print_error(f"{targets[0]}: the changes are applied; {error}")
    return _CONFLICTS if outcome.conflicts else 0


def _print(outcome: Outcome, targets: Sequence[str], *, every: bool) -> None:
    for conflict in outcome.conflicts:
        print_error(f"{conflict.path}: {conflict.reason}")
    if outcome.conflicts:
        can_merge = any(conflict.can_merge for conflict in outcome.conflicts)
        print_error(
            f"{targets[0]}: nothing is applied: --theirs writes there what the view has, --ours keeps what the layer"
            " has" + (", --merge first merges texts" if can_merge else "")
        )
        return
    if every:
        for one in outcome.written:
            path = one.path if one.old_path is None else f"{one.old_path} -> {one.path}"
            print(one_line(f"{_LETTERS[one.kind]}  {path}"))
    for notable in outcome.notable:
        print(one_line(f"{notable.what}: {notable.path}"))
    for kept in outcome.skipped:
        print(one_line(f"kept: {kept.path}: {kept.reason}"))
    for merged in outcome.merged:
        print(one_line(f"merged: {merged.path}: {merged.reason}"))
    for gone in outcome.overwritten:
        print(one_line(f"overwritten: {gone.path}: {gone.reason}"))
    counts = dict.fromkeys(_LETTERS, 0)
    for one in outcome.written:
        counts[one.kind] += 1
    print(", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no changes")
    if outcome.written and not every:
        for target in targets:
            print(
                one_line(f"'overlaykit apply --undo {target}' takes it back, --drop gives that up")
            )
