"""`overlaykit cp`: copy files into a view and out of it."""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import TYPE_CHECKING, Final

from overlaykit import signals
from overlaykit.cli import output
from overlaykit.cli.arguments import Parser
from overlaykit.cli.options import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlaykit.views.copying import End, Enter

_EPILOG: Final = """\
Either is VIEW:PATH, a path of a view, which may be running or be a named one that is stopped. The other one is a path
of the host, or '-' for a tar archive on standard input or output. A host's path with a colon begins with '/' or './'.

What is copied into a view belongs to the view's user, what is copied out of it to the caller. A directory is copied
into one that is there under its own name; SRC/. stands for what it holds. A symbolic link named as SRC is followed,
in the view, and those below it are copied as links. Devices and sockets are left out."""


def parser() -> Parser:
    """The command's parser."""
    command = Parser("cp", "Copy files into a view and out of it.", epilog=_EPILOG)
    command.usage = "overlaykit cp [OPTION]... VIEW:SRC DEST | SRC VIEW:DEST"
    command.add_argument(
        "-a",
        "--archive",
        type=_boolean,
        nargs="?",
        const=True,
        default=True,
        metavar="true|false",
        help="give what is copied to the view's user, or to the caller (default: true); false: to its owner's number",
    )
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a directory by another file, and the other way round",
    )
    command.add_argument("source", metavar="SRC")
    command.add_argument("destination", metavar="DEST")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    if not (_view_of(args.source) or _view_of(args.destination)):
        raise Usage("cp", "neither path is of a view: write VIEW:PATH")
    if args.destination == "-" and os.isatty(1):
        raise Usage("cp", "an archive is nothing for a terminal: redirect standard output")
    from overlaykit.views import copying

    with signals.unwound(), contextlib.ExitStack() as stack:
        source = stack.enter_context(_end(args.source))
        destination = stack.enter_context(_end(args.destination))
        left_out = copying.copy(
            source, destination, keep_owners=not args.archive, overwrite=args.overwrite
        )
    for name in left_out:
        output.print_error(f"{name}: left out: a device or a socket")
    return 0


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r}: give true or false")
    return text == "true"


def _view_of(text: str) -> str:
    """The name of the view that a path is in; empty for a path of the host."""
    name, colon, _ = text.partition(":")
    return name if colon and not text.startswith((".", "/")) and "/" not in name else ""


@contextlib.contextmanager
def _end(text: str) -> Iterator[End]:
    from overlaykit.views import copying
    from overlaykit.views.registry import NotRunning

    name = _view_of(text)
    if not name:
        if not text:
            raise Usage("cp", "a path is empty")
        yield copying.End(path=text if text == "-" else os.path.join(os.getcwd(), text))
        return
    path = copying.in_view(text.partition(":")[2])
    with contextlib.ExitStack() as stack:
        try:
            enter = stack.enter_context(copying.running(name))
        except NotRunning:
            from overlaykit.cli import stopped

            enter = stack.enter_context(stopped.mounted(name, path))
        yield copying.End(path=path, enter=enter, owner=_owner(name, enter))


def _owner(name: str, enter: Enter) -> tuple[int, int]:
    """The user and the group of the view's command."""
    from overlaykit.cli import launch_options, run
    from overlaykit.namespace import accounts
    from overlaykit.views.named import NamedView, NoSuchView

    try:
        args, _ = run.parse(list(NamedView(name).definition().arguments))
    except NoSuchView:
        return 0, 0
    identity = launch_options.identity(args).get("identity")
    if identity is None:
        return 0, 0
    account = accounts.look_up(identity, enter)
    return account.user, account.group
