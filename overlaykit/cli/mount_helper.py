"""`mount.fuse.overlaykit`: the program that mount(8) runs for `-t fuse.overlaykit` and for a line in fstab.

mount(8) looks for it in /sbin (mount(8), EXTERNAL HELPERS). If it is missing, mount(8) runs mount.fuse3, which runs
the `overlaykit` in the PATH with fewer arguments.
"""

from __future__ import annotations

from overlaykit.cli import output
from overlaykit.cli.arguments import Parser
from overlaykit.cli.commands import MOUNT_HELPER


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        MOUNT_HELPER,
        "Mount layers over a directory, for mount(8): 'overlaykit mount --help' lists the options of -o.",
    )
    command.usage = f"{MOUNT_HELPER} [SOURCE] TARGET [-sfnv] [-t TYPE] [-o OPTIONS]..."
    command.add_argument(
        "paths", nargs="+", metavar="SOURCE TARGET", help="a name for the mount, and a directory"
    )
    command.add_argument("-o", dest="options", action="append", default=[], help="mount options")
    command.add_argument("-s", dest="sloppy", action="store_true", help="ignore unknown options")
    command.add_argument("-f", dest="fake", action="store_true", help="do all but the mount itself")
    command.add_argument(
        "-n", action="store_true", help="write no mtab: ignored, none is ever written"
    )
    command.add_argument("-v", action="store_true", help="be verbose: ignored")
    command.add_argument(
        "-t", metavar="TYPE", help="the type: ignored, it is always fuse.overlaykit"
    )
    return command


def main(arguments: list[str]) -> int:
    command = parser()
    args = command.parse_args(arguments)
    *sources, target = args.paths
    if len(sources) > 1:
        command.error("give one SOURCE and one TARGET")
    from overlaykit.views import mount, parse_options

    options = parse_options(*args.options, source="".join(sources), sloppy=args.sloppy)
    for note in options.notes:
        output.print_error(note)
    if not args.fake:
        mount(options, target, warn=output.print_error)
    return 0
