"""`overlaykit up`: start the apps of a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from overlaykit import signals
from overlaykit.cli.arguments import Parser

if TYPE_CHECKING:
    from overlaykit.cli.profiles.apps import State

_PROFILE: Final = """\
An app is a table of the profile: of overlaykit.toml here or above, or in ~/.config/overlaykit ($XDG_CONFIG_HOME):

    [db]
    command = "/srv/bin/db --port 5432"
    volumes = ["./bin:/srv/bin:ro"]         # relative to the profile
    limits = { memory = "512m", pids-limit = 100 }
    ready = { port = 5432, timeout = 30 }   # or file = PATH, or command = [...], in the view

    [web]
    layers = ["site", "host"]
    command = ["nginx", "-g", "daemon off;"]
    ports = ["8080:80"]
    env = { STAGE = "test" }
    depends-on = ["db"]

Each key is an option of 'overlaykit run' and means the same: overlaykit.toml(5) lists them. An app runs detached, in a
view of its name, or that of the key 'name', and keeps what is written in it. Apps that run already go on; one whose
table has changed is stopped and started with what was written. What an app depends on is started first, and is ready
before it starts. If an app cannot be started, or is not ready in time, those that this 'up' has started are stopped."""


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "up",
        "Start the apps of a profile, after those that they depend on (all, or those named).",
        epilog=_PROFILE,
    )
    add_file(command)
    command.add_argument("--json", action="store_true", help="for programs: a list of objects")
    command.add_argument("apps", metavar="APP", nargs="*")
    return command


def add_file(command: Parser) -> None:
    """Add the option that names the profile."""
    command.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        help="the profile (default: overlaykit.toml here or above, or in ~/.config/overlaykit)",
    )


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.cli.profiles import apps, files
    from overlaykit.cli.profiles.profile import Profile

    profile = Profile(files.given_or_found(args.file))
    with reporting(as_json=args.json) as report, signals.unwound(), apps.locked(profile):
        apps.up(profile, args.apps, report)
    return 0


class reporting:  # noqa: N801  # a function to its callers
    """A block in which what was done to apps is printed, or as JSON at its end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._done: list[State] = []

    def __enter__(self) -> reporting:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._as_json and kind is None:
            from overlaykit import codec

            print(codec.encode_pretty([_plain(one) for one in self._done]))

    def __call__(self, done: State) -> None:
        """Report what was done to an app."""
        if self._as_json:
            self._done.append(done)
        else:
            print(f"{done.app}: {done.state}", flush=True)


def _plain(one: State) -> dict[str, str]:
    return {"app": one.app, "view": one.view, "done": one.state}
