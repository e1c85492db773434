"""`overlaykit rename`: give a named view another name."""

from __future__ import annotations

from typing import Final

from overlaykit.cli.arguments import Parser
from overlaykit.errors import Error
from overlaykit.scope import suppress

_EPILOG: Final = """\
All commands take the new name from then on. The view's host name, and its name in networks that it shares, stay those
of its start. A unit of systemd and a profile that name the view have to be changed."""


class NameStays(Error):
    message = (
        "{0}: a view that is removed at the end of its command in the foreground, or a mount, keeps its name: run it "
        "with -d or without --rm"
    )


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "rename",
        "Give a named view another name, also while it runs.",
        epilog=_EPILOG,
    )
    command.add_argument("view", metavar="VIEW")
    command.add_argument("name", metavar="NAME")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.views import named
    from overlaykit.views.registry import NotRunning, Registry

    try:
        view = named.NamedView(args.view)
    except named.NoSuchView:
        with suppress(NotRunning):
            Registry().find(args.view)
            raise NameStays(args.view) from None
        raise
    view.rename(args.name)
    return 0
