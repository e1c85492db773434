"""`overlaykit layer`: the layers of the store."""

from __future__ import annotations

import argparse
import errno
import os
from typing import Final, NoReturn

from overlaykit.cli import progress
from overlaykit.cli.arguments import Parser
from overlaykit.cli.interruption import Interruption
from overlaykit.cli.options import Usage
from overlaykit.cli.table import show, time_of
from overlaykit.errors import Error
from overlaykit.layers import Layer, Store, StoredLayer, resolve

_HEADINGS: Final = ("NAME", "ADDED", "SIZE", "FILES", "SOURCE", "DIRECTORY")
_SOURCES: Final = """\
sources:
  dir:PATH                         a copy of a directory
  tar:PATH                         an archive, also compressed
  deb:PACKAGE[,PACKAGE]@SUITE      Debian packages with what the base lacks, also in another
                                   version than the base's: deb:python3.13@trixie"""
_USAGE: Final = "overlaykit layer add NAME SOURCE | ls [--json] | rm NAME"


class StoreFull(Error):
    message = "{0}: {1}: make room there, or set XDG_DATA_HOME to a directory on another disk"


class _ActionParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Usage("layer", message)


def parser() -> Parser:
    """The command's parser."""
    command = Parser("layer", "Add, list and remove layers of the store.")
    command.usage = _USAGE
    actions = command.add_subparsers(
        dest="action",
        required=True,
        metavar="ACTION",
        parser_class=_ActionParser,
        prog="overlaykit layer",
    )
    add = actions.add_parser(
        "add",
        help="make a layer",
        description="Make a layer of a directory, an archive, or Debian packages.",
        epilog=_SOURCES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("name", metavar="NAME", help="a name for -l")
    add.add_argument("source", metavar="SOURCE", help="dir:PATH, tar:PATH or deb:PACKAGES@SUITE")
    add.add_argument(
        "--base",
        metavar="LAYER",
        default="host",
        help="the layer below .deb packages, which decides on their dependencies (default: host)",
    )
    listing = actions.add_parser("ls", help="list the layers")
    listing.add_argument("--json", action="store_true", help="for programs: a list of objects")
    actions.add_parser("rm", help="remove a layer").add_argument("name", metavar="LAYER")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    store = Store()
    if args.action == "add":
        _add(store, args.name, args.source, base=resolve(args.base, store))
    elif args.action == "rm":
        store.remove(args.name)
    elif args.json:
        from overlaykit import codec

        print(codec.encode_pretty(store.list()))
    else:
        show(_HEADINGS, map(_row, store.list()))
    return 0


def _add(store: Store, name: str, source: str, *, base: Layer) -> None:
    """Add a layer; a signal that ends the program leaves the store as it was."""
    try:
        with progress.shown(), Interruption() as interruption, interruption.allowed():
            store.add(name, source, base=base)
    except OSError as error:
        # The error may name a source file: its copy found no room.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(store.root, os.strerror(error.errno)) from error
        raise


def _row(layer: StoredLayer) -> tuple[str, ...]:
    from rich.filesize import decimal

    return (
        layer.name,
        time_of(layer.created),
        decimal(layer.bytes),
        str(layer.files),
        layer.source,
        layer.path,
    )
