"""`overlaykit umount`: the end of a mount."""

from __future__ import annotations

from overlaykit.cli.arguments import Parser


def main(arguments: list[str]) -> int:
    parser = Parser("umount", "Unmount, and return once the mount's daemon has ended.")
    parser.add_argument("target", metavar="TARGET", help="where it is mounted")
    args = parser.parse_args(arguments)
    from overlaykit.views import umount

    umount(args.target)
    return 0
