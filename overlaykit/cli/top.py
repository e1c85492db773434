"""`overlaykit top`: the processes of a view."""

from __future__ import annotations

import shlex

from overlaykit.cli.arguments import Parser
from overlaykit.cli.table import show


def parser() -> Parser:
    """The command's parser."""
    command = Parser("top", "List the processes of a running view, as this machine sees them.")
    command.add_argument("--json", action="store_true", help="for programs: a list of objects")
    command.add_argument("view", metavar="VIEW")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.views import members
    from overlaykit.views.registry import Registry

    found = members.members(Registry().find_view(args.view).about)
    if args.json:
        from overlaykit import codec

        print(codec.encode_pretty(found))
        return 0
    show(
        ("PID", "INSIDE", "UID", "STATE", "TIME", "MEMORY", "COMMAND"),
        (
            (
                str(one.pid),
                str(one.inside),
                str(one.uid),
                one.state,
                f"{one.seconds:.2f}",
                size(one.memory),
                shlex.join(one.command),
            )
            for one in found
        ),
    )
    return 0


def size(count: int) -> str:
    """Bytes for people: 12.3 MiB."""
    if count < 1 << 20:
        return f"{count / (1 << 10):.1f} KiB"
    if count < 1 << 30:
        return f"{count / (1 << 20):.1f} MiB"
    return f"{count / (1 << 30):.1f} GiB"
