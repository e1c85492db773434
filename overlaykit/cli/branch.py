"""`overlaykit branch`: another view that goes on from a point of one."""

from __future__ import annotations

from typing import Final

from overlaykit.cli.arguments import Parser

_EPILOG: Final = """\
The new view has the options and the command of the other one, and begins with what that shows at the snapshot. Without
one, what VIEW has written until now becomes a snapshot first, for which it has to be stopped. Both share what was
written until then, and nothing is copied: VIEW cannot be removed as long as the new one is there. The snapshot 'start'
is the view as it began. 'overlaykit start' starts the new view."""


def parser() -> Parser:
    """The command's parser."""
    command = Parser("branch", "Make another view that goes on from a snapshot.", epilog=_EPILOG)
    command.add_argument(
        "view", metavar="VIEW[@SNAPSHOT]", help="a view, or one as it was at a snapshot"
    )
    command.add_argument("name", metavar="NAME", help="of the new view")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.cli import points
    from overlaykit.views import named, snapshots
    from overlaykit.views.registry import NameInvalid, is_name

    name, point = points.parted(args.view)
    view, given = points.opened(name)
    if not is_name(args.name):
        raise NameInvalid(args.name)
    if named.exists(args.name):
        raise named.NameTaken(args.name)
    if point is not None:
        found = snapshots.find(view, point)
    else:
        with points.stopped(view):
            points.refuse_links(view, given)
            found = snapshots.newest(view, f"for {args.name}", points.layers_of(given))
    print(snapshots.branch(view, found, args.name).name)
    return 0
