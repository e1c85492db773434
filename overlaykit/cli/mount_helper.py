"""`mount.fuse.overlaykit`: what mount(8) runs for `-t fuse.overlaykit` and for a line in fstab.

mount(8) looks for it in /sbin (mount(8), EXTERNAL HELPERS). Where it is not there, mount(8) runs mount.fuse3, and that
runs `overlaykit`, which it finds along the PATH, with fewer arguments.
"""

from __future__ import annotations

from overlaykit.cli import output
from overlaykit.cli.arguments import Parser
from overlaykit.cli.main import MOUNT_HELPER


def main(arguments: list[str]) -> int:
    parser = Parser(
        MOUNT_HELPER,
        "Mount layers over a directory, for mount(8): 'overlaykit mount --help' lists the options of -o.",
    )
    parser.usage = f"{MOUNT_HELPER} [SOURCE] TARGET [-sfnv] [-t TYPE] [-o OPTIONS]..."
    parser.add_argument("paths", nargs="+", metavar="SOURCE TARGET", help="what to show, and where")
    parser.add_argument("-o", dest="options", action="append", default=[], help="mount options")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="ignore unknown options")
    parser.add_argument("-f", dest="fake", action="store_true", help="do all but the mount itself")
    parser.add_argument("-n", action="store_true", help="write no mtab, as ever")
    parser.add_argument("-v", action="store_true", help="be verbose: there is nothing to say")
    parser.add_argument("-t", metavar="TYPE", help="fuse.overlaykit, as ever")
    args = parser.parse_args(arguments)
    *sources, target = args.paths
    if len(sources) > 1:
        parser.error("give one SOURCE and one TARGET")
    from overlaykit.views import mount, parse_options

    stack = parse_options(*args.options, source="".join(sources), sloppy=args.sloppy)
    for note in stack.notes:
        output.tell(note)
    if not args.fake:
        mount(stack, target, warn=output.tell)
    return 0
