"""`overlaykit rename`: give a named view another name."""

from __future__ import annotations

from typing import Final

from overlaykit.cli.arguments import Parser
from overlaykit.errors import Error

_EPILOG: Final = """\
All commands take the new name from then on. The view's host name, and its name in networks that it shares, stay those
of its start. A unit of systemd and a profile that name the view have to be changed."""


class NameStays(Error):
    message = (
        "{0}: a mount, or a view that a program has made by the package overlaykit, keeps its name"
    )


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "rename",
        "Give a view another name, also while it runs.",
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
    except named.NoSuchView as missing:
        registry = Registry()
        try:
            running = registry.find(args.view)
        except NotRunning:
            raise missing from None
        about = running.about
        if about.kept is not None:  # below another XDG_DATA_HOME
            raise missing
        # A program that launches several commands writes the entry with each.
        if about.target is not None or about.pid != about.supervisor:
            raise NameStays(args.view) from None
        if named.exists(args.name):
            raise named.NameTaken(args.name) from None
        registry.rename(running, args.name)
    else:
        view.rename(args.name)
    return 0
