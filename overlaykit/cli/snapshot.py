"""`overlaykit snapshot`: freeze what a view has written."""

from __future__ import annotations

from typing import Final

from overlaykit.cli.arguments import Parser

_EPILOG: Final = """\
What the view has written becomes a layer that never changes again, and what it writes from now on goes to a new upper
above it. Nothing is copied, however much it is. 'overlaykit log' lists the snapshots, 'restore' goes back to one,
'branch' makes another view from one, and 'diff VIEW@SNAPSHOT..' compares. It prints the snapshot's id."""


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "snapshot",
        "Freeze what a view has written, to go back to it, or on from it in another view.",
        epilog=_EPILOG,
    )
    command.add_argument("-m", "--message", metavar="TEXT", default="", help="a note for 'log'")
    command.add_argument("view", metavar="VIEW")
    command.add_argument("name", metavar="NAME", nargs="?", default="", help="a name beside the id")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_intermixed_args(arguments)
    from overlaykit.cli import points
    from overlaykit.views import snapshots

    view, given = points.opened(args.view)
    layers = points.layers_of(given)
    running = points.running(view)
    if running is not None:
        from overlaykit.views import freezing

        def freeze(path: str) -> None:
            freezing.freeze(running, path)

        made = snapshots.take(
            view, name=args.name, message=args.message, layers=layers, freeze=freeze
        )
    else:
        with points.stopped(view):
            points.refuse_links(view, given)
            made = snapshots.take(view, name=args.name, message=args.message, layers=layers)
    print(made.id)
    return 0
