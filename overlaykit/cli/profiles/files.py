"""Where a profile lies: in the project, found upward from the working directory, or in the user's configuration."""

from __future__ import annotations

import os

from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

NAME: Final = "overlaykit.toml"


class NoProfile(Error):
    message = f"there is no {NAME} here, above, or in {{0}}: write one, or give -f FILE"


class OfAnotherUser(Error):
    message = (
        "{0} belongs to another user, who would choose what you run: look at it, then give -f {0}"
    )


def given_or_found(given: str | None) -> str:
    """The absolute path of the profile: `given` by the caller, or found. Raises: NoProfile, OfAnotherUser."""
    if given is not None:
        return os.path.abspath(given)
    path = found()
    if path is None:
        raise NoProfile(os.path.dirname(_of_user() or "~/.config/overlaykit/"))
    return path


def found() -> str | None:
    """The profile of the project, else the user's; None if there is neither. Raises: OfAnotherUser."""
    for path in _candidates():
        try:
            owner = os.stat(path).st_uid
        except OSError:
            continue
        if owner not in (0, os.geteuid()):
            raise OfAnotherUser(path)
        return path
    return None


def naming(word: str) -> str | None:
    """The profile, whoever owns it, if its text has the word at all; None spares a plain `run` the parser of TOML."""
    for path in _candidates():
        try:
            with open(path, "rb") as file:
                return path if os.fsencode(word) in file.read() else None
        except OSError:
            continue
    return None


def has_table(path: str, name: str) -> bool:
    """Whether a profile has a table of that name; no, if it is no TOML."""
    import tomllib

    try:
        with open(path, "rb") as file:
            return name in tomllib.load(file)
    except (OSError, ValueError, RecursionError):
        return False


def _candidates() -> Iterator[str]:
    try:
        directory = os.getcwd()
    except FileNotFoundError:  # it was deleted
        directory = "/"
    while True:
        yield os.path.join(directory, NAME)
        if directory == "/":
            break
        directory = os.path.dirname(directory)
    if path := _of_user():
        yield path


def _of_user() -> str | None:
    """The path of the user's own profile, whether there is one or not."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(home):  # as the XDG base directory specification says
        home = os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(home, "overlaykit", NAME) if os.path.isabs(home) else None
