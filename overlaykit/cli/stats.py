"""`overlaykit stats`: what views use, live."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from overlaykit.cli.arguments import Parser

if TYPE_CHECKING:
    import argparse

    from overlaykit.fuse.control import Measured
    from overlaykit.views.entry import About
    from overlaykit.views.members import Usage
    from overlaykit.views.registry import Registry

_SECONDS: Final = 1.0
"""Between two samples."""


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "stats", "Show what running views use, once a second until Ctrl-C (all, or those named)."
    )
    command.add_argument("--no-stream", action="store_true", help="show one sample only")
    command.add_argument(
        "--json", action="store_true", help="for programs: one sample, a list of objects"
    )
    command.add_argument(
        "--requests",
        action="store_true",
        help="show the requests of the kernel that the views' daemons have had, by kind: how many, how long they took"
        " (HALF BELOW and 99%% BELOW in microseconds), and whether Python or native code has answered",
    )
    command.add_argument(
        "--prometheus",
        action="store_true",
        help="the same for Prometheus, as its node exporter reads text files",
    )
    command.add_argument("views", metavar="VIEW", nargs="*")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.views import members
    from overlaykit.views.registry import Registry

    registry = Registry()
    if args.requests or args.prometheus:
        return _requests(registry, args)
    wanted = {registry.find_view(name).about.device for name in args.views}  # names may change

    def views() -> list[About]:
        found = [one.about for one in registry.running() if one.about.supervisor]
        return [one for one in found if not wanted or one.device in wanted]

    before = {one.name: members.usage(one) for one in views()}
    began = time.monotonic()
    if args.json:
        from overlaykit import codec

        print(codec.encode_pretty([{"name": name} | vars(one) for name, one in before.items()]))
        return 0
    if args.no_stream:
        time.sleep(_SECONDS)
        _show(before, {one.name: members.usage(one) for one in views()}, time.monotonic() - began)
        return 0
    while True:
        time.sleep(_SECONDS)
        now, ended = {one.name: members.usage(one) for one in views()}, time.monotonic()
        _show(before, now, ended - began, clear=True)
        if not now:
            return 0
        before, began = now, ended


def _requests(registry: Registry, args: argparse.Namespace) -> int:
    from overlaykit.cli import request_stats
    from overlaykit.cli.output import print_error
    from overlaykit.client import Client, NoDaemon
    from overlaykit.views.registry import DaemonSilent, NotRunning

    wanted = [registry.find(name) for name in args.views] if args.views else registry.running()
    measured: dict[str, Measured] = {}
    silent: list[DaemonSilent] = []
    for one in wanted:
        try:
            with Client.of(one) as client:
                measured[one.about.name] = client.stats()
        except DaemonSilent as error:
            silent.append(error)
        except (NoDaemon, NotRunning):
            if args.views:
                raise
    if args.prometheus:
        print(request_stats.as_prometheus(measured))
    elif args.json:
        print(request_stats.as_json(measured))
    else:
        request_stats.show(measured)
    for one_silent in silent:
        print_error(str(one_silent))
    return 125 if silent else 0


def _show(
    before: dict[str, Usage], now: dict[str, Usage], seconds: float, *, clear: bool = False
) -> None:
    import sys

    from overlaykit.cli.table import show
    from overlaykit.cli.top import size

    if clear and sys.stdout.isatty():
        print("\033[H\033[2J", end="")
    rows = []
    for name, usage in now.items():
        earlier = before.get(name, usage)
        share = max(0.0, usage.seconds - earlier.seconds) / seconds
        limit = "" if usage.limit is None else f" / {size(usage.limit)}"
        rows.append(
            (
                name,
                f"{share:.1%}",
                f"{size(usage.memory)}{limit}",
                str(usage.processes),
                f"{usage.seconds:.2f}",
            )
        )
    show(("NAME", "CPU", "MEMORY / LIMIT", "PROCESSES", "CPU SECONDS"), rows)
