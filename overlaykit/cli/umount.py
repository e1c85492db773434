"""`overlaykit umount`: the end of a mount."""

from __future__ import annotations

import sys

from overlaykit.cli.arguments import Parser


def main(arguments: list[str]) -> int:
    parser = Parser("umount", "Unmount, and return once the mount's daemon has ended.")
    parser.add_argument("target", metavar="TARGET", help="where it is mounted")
    args = parser.parse_args(arguments)
    from overlaykit.views import umount

    def on_delay() -> None:
        print(
            f"overlaykit: {args.target}: unmounted here; another mount namespace, perhaps a view over 'host', "
            "has it too: waiting for its end (Ctrl-C waits no longer)",
            file=sys.stderr,
            flush=True,
        )

    umount(args.target, on_delay=on_delay)
    return 0
