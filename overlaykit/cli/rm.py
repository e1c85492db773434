"""`overlaykit rm`: remove named views."""

from __future__ import annotations

import contextlib

from overlaykit.cli.arguments import Parser


def parser() -> Parser:
    """The command's parser."""
    command = Parser("rm", "Remove named views, with what was written in them.")
    command.add_argument(
        "-f", "--force", action="store_true", help="kill those that are running first"
    )
    command.add_argument("views", metavar="VIEW", nargs="+")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.views import ending, named

    for name in args.views:
        view = named.NamedView(name)
        if args.force and ending.is_started_again(view):
            ending.stop(view, 0)
            view.remove()
        elif args.force and view.is_running():
            ending.kill(view)
            view.wait()
            with contextlib.suppress(named.NoSuchView):  # a temporary one was removed at its end
                view.remove()
        else:
            view.remove()
    return 0
