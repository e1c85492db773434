"""`overlaykit umount`: unmount, and wait for the end of the daemon."""

from __future__ import annotations

from overlaykit.cli import output
from overlaykit.cli.arguments import Parser, seconds


def parser() -> Parser:
    """The command's parser."""
    command = Parser("umount", "Unmount, and return once the mount's daemon has ended.")
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "-l",
        "--lazy",
        action="store_true",
        help="detach a mount that is in use: it ends with its last user",
    )
    how.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="end a mount that is in use: what was written is flushed, then its users get errors",
    )
    command.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="how long to wait for the daemon's end (default: 10)",
    )
    command.add_argument(
        "target", metavar="TARGET|NAME", help="a mountpoint, or the name of a mount"
    )
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.views import unmounting

    timeout = unmounting.TIMEOUT if args.timeout is None else args.timeout

    def on_delay(held_by: str) -> None:
        output.print_error(
            f"{args.target}: unmounted here, but held by {held_by}, perhaps in another mount namespace: "
            f"waiting for the end of that (at most {timeout:g} seconds; Ctrl-C ends the wait)"
        )

    unmounting.umount(
        args.target, lazy=args.lazy, force=args.force, timeout=timeout, on_delay=on_delay
    )
    return 0
