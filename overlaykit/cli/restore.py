"""`overlaykit restore`: have a view show a snapshot again."""

from __future__ import annotations

from typing import Final

from overlaykit.cli.arguments import Parser

_EPILOG: Final = """\
The view has to be stopped. What it has written since its last snapshot becomes a snapshot itself, whose id is printed,
so that nothing is lost: 'overlaykit restore' goes back to that, too. The snapshot 'start' is the view as it began."""


def parser() -> Parser:
    """The command's parser."""
    command = Parser("restore", "Have a view show a snapshot again.", epilog=_EPILOG)
    command.add_argument(
        "--discard", action="store_true", help="drop what was written since the last snapshot"
    )
    command.add_argument("view", metavar="VIEW")
    command.add_argument(
        "snapshot", metavar="SNAPSHOT", help="its name, its id, or the beginning of that"
    )
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.cli import points
    from overlaykit.views import snapshots

    view, given = points.opened(args.view)
    with points.stopped(view):
        if not args.discard:
            points.refuse_links(view, given)
        found = snapshots.find(view, args.snapshot)
        saved = snapshots.restore(
            view, found, keeps=not args.discard, layers=points.layers_of(given)
        )
    if saved is not None:
        print(saved.id)
    return 0
