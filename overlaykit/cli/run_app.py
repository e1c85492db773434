"""`overlaykit run APP`: the command line that a table of a profile stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overlaykit import signals
from overlaykit.cli.options import Usage
from overlaykit.cli.profiles import apps, files
from overlaykit.cli.profiles.profile import Profile

if TYPE_CHECKING:
    from typing import Any


def expanded(arguments: list[str], args: Any) -> list[str]:
    """The arguments of `run` without the app: its options, then those given, and its command.

    The apps that it depends on are started first. `args`: the values of the arguments. Returns: the arguments as they
    are if the first word is no app, but the command.
    Raises: Usage, Error.
    """
    words = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not words:
        raise Usage("run", "no app given")
    if args.file is None:
        named = files.naming(words[0])
        if named is None or not files.has_table(named, words[0]):
            return arguments
    profile = Profile(files.given_or_found(args.file))
    app = profile.find(words[0])
    own = arguments[: len(arguments) - len(args.command)]
    if own[-1:] == ["--"]:
        own = own[:-1]
    command = words[1:] or list(app.command)
    profile.require_startable(app.replace(command=tuple(command)))
    if app.depends_on:
        with signals.unwound(), apps.locked(profile):
            apps.up(profile, app.depends_on, lambda _: None)
    options = [one for one in app.options if not one.startswith("--restart=")]  # which is for 'up'
    return [*options, *own, "--", *command]
