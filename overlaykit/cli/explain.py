"""`overlaykit explain`: which layer answers for a path, with the real file's path, and what it shadows."""

from __future__ import annotations

from overlaykit.cli.arguments import Parser
from overlaykit.cli.output import one_line


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "explain",
        "Say which layer answers for a path in a running view, with the real file, and what it shadows.",
    )
    command.add_argument("view", metavar="NAME|TARGET", help="a view's name, or a mountpoint")
    command.add_argument("path", metavar="PATH", help="a path in the view, from its root")
    command.add_argument("--json", action="store_true", help="for programs: an object")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.client import Client

    with Client(args.view) as client:
        found = client.explain(args.path)
    if args.json:
        from overlaykit import codec

        print(codec.encode_pretty(found))
        return 0
    print(one_line(found.path if found.target is None else f"{found.path} -> {found.target}"))
    for hit in found.hits:
        print(one_line(f"  {hit.role:8}  {hit.kind:9}  {hit.path}"))
    return 0
