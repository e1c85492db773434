"""`overlaykit ps`: the views and mounts that are running."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from typing import TYPE_CHECKING, Final

from overlaykit.cli.arguments import Parser
from overlaykit.cli.options import Usage
from overlaykit.cli.table import show, time_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overlaykit.cli.profiles.apps import State
    from overlaykit.views.entry import About
    from overlaykit.views.listing import Listed
    from overlaykit.views.named import Definition

_SECONDS: Final = 1.0
"""Between two lists of --watch."""
_CLEAR: Final = "\033[H\033[2J"
"""Go home and erase the screen (console_codes(4))."""

_FILTERS: Final = ("label", "name", "status")


def parser() -> Parser:
    """The command's parser."""
    command = Parser("ps", "List the views and mounts that are running, oldest first.")
    command.add_argument(
        "-a", "--all", action="store_true", help="list named views that are stopped, too"
    )
    command.add_argument(
        "--filter",
        dest="filters",
        type=_filter,
        metavar="WHAT=VALUE",
        action="append",
        default=[],
        help="list only those with label=KEY or label=KEY=VALUE, name=NAME, or status=running, restarting, stopped or"
        " created; of several, with all",
    )
    command.add_argument(
        "--apps",
        action="store_true",
        help="list the apps of the profile, and whether each is ready for those that depend on it",
    )
    command.add_argument(
        "-f", "--file", metavar="FILE", help="list the apps of this profile (see 'overlaykit up')"
    )
    command.add_argument(
        "--watch", action="store_true", help="list them again each second, until Ctrl-C"
    )
    command.add_argument("--json", action="store_true", help="for programs: a list of objects")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    if args.apps or args.file is not None:
        if args.all or args.filters:
            raise Usage("ps", "--apps lists all apps: leave out -a and --filter")
        return _repeat(lambda: _show_apps(args), watch=args.watch)
    return _repeat(lambda: _show_views(args), watch=args.watch)


def _repeat(once: Callable[[], None], *, watch: bool) -> int:
    while True:
        if watch and sys.stdout.isatty():
            print(_CLEAR, end="")
        once()
        if not watch:
            return 0
        sys.stdout.flush()
        time.sleep(_SECONDS)


def _show_apps(args: argparse.Namespace) -> None:
    from overlaykit.cli.profiles import apps, files
    from overlaykit.cli.profiles.profile import Profile

    found = apps.states(Profile(files.given_or_found(args.file)))
    if args.json:
        from overlaykit import codec

        print(codec.encode_pretty(found))
        return
    show(
        ("APP", "VIEW", "STATE", "PID", "STARTED", "PORTS", "DEPENDS ON", "COMMAND"),
        (
            (
                one.app,
                one.view,
                _state_of_app(one),
                "" if one.pid is None else str(one.pid),
                "" if one.started is None else time_of(one.started),
                " ".join(one.ports),
                " ".join(one.depends_on),
                shlex.join(one.command),
            )
            for one in found
        ),
    )


def _state_of_app(one: State) -> str:
    if one.ready is not None:
        return f"{one.state}, {'ready' if one.ready else 'not ready'}"
    return one.state if one.status is None else f"{one.state} ({one.status})"


def _show_views(args: argparse.Namespace) -> None:
    from overlaykit.views import listing

    found = listing.everything() if args.all else listing.running()
    found = [one for one in found if all(_matches(one, *given) for given in args.filters)]
    if args.json:
        from overlaykit import codec

        print(codec.encode_pretty([_plain(one) for one in found]))
        return
    state = ("STATE",) if args.all else ()
    rest = ("PID", "STARTED", "LAYERS", "UPPER", "PORTS", "COMMAND OR MOUNTPOINT")
    show(("NAME", *state, *rest), (_row(one, with_state=args.all) for one in found))


def _filter(text: str) -> tuple[str, str]:
    what, equals, value = text.partition("=")
    if what not in _FILTERS or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: give {', '.join(_FILTERS)} and =VALUE")
    return what, value


def _matches(one: Listed, what: str, value: str) -> bool:
    if what == "label":
        key, equals, wanted = value.partition("=")
        return key in one.labels and (not equals or one.labels[key] == wanted)
    return value == (one.name if what == "name" else one.state)


def _plain(one: Listed) -> dict[str, object]:
    """The fields of what runs; of what is stopped, those that it has."""
    state: dict[str, object] = {"name": one.name, "state": one.state, "labels": one.labels}
    if one.ended is not None:
        state["status"] = one.ended.status
    return state if one.about is None else vars(one.about) | state


def _row(one: Listed, *, with_state: bool) -> tuple[str, ...]:
    about, status = one.about, "" if one.ended is None else f" ({one.ended.status})"
    state = (one.state + status,) if with_state else ()
    if about is None:
        command = () if one.definition is None else _command(one.definition)
        return (one.name, *state, "", "", "", "", "", shlex.join(command))
    return (
        about.name,
        *state,
        str(about.pid),
        time_of(about.started),
        ":".join(about.layers),
        about.upper or "",
        " ".join(about.ports),
        _where(about) if about.target else shlex.join(about.command),
    )


def _command(definition: Definition) -> Sequence[str]:
    """The command alone; with the options of `run` where this version does not take them."""
    from overlaykit.cli import run

    try:
        return run.parse(list(definition.arguments))[1]
    except Usage:
        return definition.arguments


def _where(about: About) -> str:
    """The mountpoint in this mount namespace, or else the one at mount time."""
    from overlaykit.fuse import mountpoints

    shown = mountpoints.of_device(about.device)
    return shown[0].mountpoint if shown else f"{about.target} (not mounted here)"
