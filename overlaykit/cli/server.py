"""`overlaykit server`: the process that forks the daemons of views, its status and its end."""

from __future__ import annotations

from overlaykit.cli.arguments import Parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_MIB: Final = 1 << 20


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "server",
        "The process that starts the daemons of views quickly. The first view starts it; it ends five minutes after\n"
        "the last one. OVERLAYKIT_SERVER=off starts views without it, and a number sets the seconds.",
    )
    command.add_argument(
        "action",
        metavar="status|stop",
        choices=("status", "stop"),
        help="'status': whether it runs, and what it has done; 'stop': end it: running views go on",
    )
    command.add_argument("--json", action="store_true", help="for programs: an object, or null")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    if args.action == "stop":
        return _stop(as_json=args.json)
    return _status(as_json=args.json)


def _status(*, as_json: bool) -> int:
    from overlaykit import codec
    from overlaykit.views import server

    found = server.status()
    if as_json:
        print("null" if found is None else codec.encode_pretty(found))
    elif found is None:
        print("not running")
    else:
        print(
            f"running: process {found.pid}, overlaykit {found.version} ({found.interpreter})\n"
            f"daemons: {found.served} started, {found.alive} alive\n"
            f"memory: {found.memory / _MIB:.1f} MiB (its share)"
        )
    return 0


def _stop(*, as_json: bool) -> int:
    from overlaykit import codec
    from overlaykit.views import server

    found = server.stop()
    if as_json:
        print("null" if found is None else codec.encode_pretty(found))
    elif found is None:
        print("not running")
    elif found.alive:
        print(f"stopped: process {found.pid} ends with the last of its daemons, {found.alive} now")
    else:
        print(f"stopped: process {found.pid}")
    return 0
