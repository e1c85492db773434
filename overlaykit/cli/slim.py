"""`overlaykit slim`: a layer of only what a command has used."""

from __future__ import annotations

import os
import tempfile

from overlaykit.cli import run, trace
from overlaykit.cli.options import Options, Usage
from overlaykit.cli.output import print_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from overlaykit.cli.arguments import Parser

_EPILOG: Final = """\
Without --from, the command runs first, as by 'overlaykit trace' with its options. What it looked up, opened or
executed in the layers goes into the new layer, also its mistakes: what was missing is missing there. A file that was
only looked up or listed has its attributes and its size, and no bytes. 'overlaykit run -l NAME -- COMMAND' runs it."""


def options() -> Options:
    """The command's options: those of `run`, and its own."""
    command = run.options()
    command.add_argument("--from", dest="source", metavar="TRACE", help="a file of 'trace -o'")
    command.add_argument("-o", dest="output", metavar="NAME", help="the name of the new layer")
    return command


def parser() -> Parser:
    """The command's parser."""
    command = options().parser()
    command.prog = "overlaykit slim"
    command.command = "slim"
    command.description = "Make a layer of only what a command has used."
    command.usage = (
        "overlaykit slim -o NAME --from TRACE [-l LAYER]... | -o NAME [OPTION]... -- COMMAND"
    )
    command.epilog = _EPILOG
    return command


def main(arguments: list[str]) -> int:
    args, inherited = trace.parse(arguments, options(), parser)
    if args.output is None:
        raise Usage("slim", "-o: give the new layer a name")
    name: str = args.output
    if args.source is not None:
        if args.command not in ([], ["--"]):
            raise Usage("slim", "--from: the trace says what was run; leave the command out")
        _make(name, args.source, args.layers)
        return 0
    args, command = run.parse(arguments, options())
    with tempfile.TemporaryDirectory(prefix="overlaykit-") as directory:
        args.output, args.only, args.json = os.path.join(directory, "trace"), None, False
        status = trace.traced_run(args, command, inherited, quiet=True)
        _make(name, args.output, args.layers)
    return status


def _make(name: str, source: str, layers: Sequence[str]) -> None:
    """Make the layer. Raises: Error, OSError."""
    from overlaykit.changes.opening import open_directory
    from overlaykit.changes.slimming import Slimmed, Used, sizes
    from overlaykit.cli.top import size
    from overlaykit.layers import Store, resolve

    with open(source, "rb") as file:
        used = Used(source, file)
    found = [resolve(layer).path for layer in layers or used.layers or ("host",)]
    made = Store().add_from(name, Slimmed(used, [open_directory(path) for path in found]))
    before, files = sizes(found)
    print_error(
        f"{name}: {made.files} files of {files}, {size(sizes([made.path], disk=True)[0])} of {size(before)}"
    )
