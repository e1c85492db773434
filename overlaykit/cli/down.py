"""`overlaykit down`: stop the apps of a profile."""

from __future__ import annotations

from overlaykit.cli import stop, up
from overlaykit.cli.arguments import Parser


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "down",
        "Stop the apps of a profile, those first that depend on others (all, or those named).",
        epilog="Without an APP, apps that the profile no longer has are stopped, too. What was written in the views of"
        " apps is\nkept for the next 'overlaykit up', unless --rm removes it.",
    )
    up.add_file(command)
    stop.add_time(command)
    command.add_argument(
        "--rm", action="store_true", help="remove the views, with what was written in them"
    )
    command.add_argument("--json", action="store_true", help="for programs: a list of objects")
    command.add_argument("apps", metavar="APP", nargs="*")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.cli.profiles import apps, files
    from overlaykit.cli.profiles.profile import Profile

    profile = Profile(files.given_or_found(args.file))
    with up.reporting(as_json=args.json) as report, apps.locked(profile):
        apps.down(profile, args.apps, args.time, remove=args.rm, report=report)
    return 0
