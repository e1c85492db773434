"""bubblewrap's --perms and --size, which are for the option that follows them."""

from __future__ import annotations

from overlaykit.cli.launch_options import MODIFIERS
from overlaykit.cli.options import Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final

    from overlaykit.cli.options import Options

PERMS, SIZE = MODIFIERS

_FOR: Final = {
    PERMS: ("--dir", "--tmpfs", "--bind-data", "--ro-bind-data"),
    SIZE: ("--tmpfs",),
}
_MOST_PERMS: Final = 0o7777

Modified = dict[tuple[str, int], dict[str, str]]
"""By an option and how many of it came before: what was said of it."""


def taken_out(
    command: str, options: Options, arguments: Sequence[str]
) -> tuple[list[str], Modified]:
    """The arguments without the modifiers, and what these said. Raises: Usage."""
    words = {flag: _words(keywords) for flags, keywords in options.declared() for flag in flags}
    kept: list[str] = []
    modified: Modified = {}
    pending: dict[str, str] = {}
    seen: dict[str, int] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "--":
        flag, equals, value = rest[0].partition("=")
        count = 1 if equals else 1 + words.get(flag, 0)
        one, rest = rest[:count], rest[count:]
        if flag in _FOR:
            pending[flag] = _checked(command, flag, value if equals else "".join(one[1:]))
            continue
        kept += one
        mine = {key: pending.pop(key) for key in list(pending) if flag in _FOR[key]}
        if mine:
            modified[flag, seen.get(flag, 0)] = mine
        seen[flag] = seen.get(flag, 0) + 1
    for key, value in pending.items():
        raise Usage(command, f"{key} {value}: no {' or '.join(_FOR[key])} follows")
    return [*kept, *rest], modified


def mode_of(said: Mapping[str, str], default: int) -> int:
    """The permissions of what is made."""
    return int(said[PERMS], 8) if PERMS in said else default


def _words(keywords: dict[str, Any]) -> int:
    if keywords.get("action") == "store_true":
        return 0
    words = keywords.get("nargs", 1)
    return words if isinstance(words, int) else 0


def _checked(command: str, key: str, value: str) -> str:
    if key == SIZE and not (value.isascii() and value.isdecimal() and int(value)):
        raise Usage(command, f"{key} {value}: give a number of bytes")
    if key == PERMS and not (
        value and not set(value) - set("01234567") and int(value, 8) <= _MOST_PERMS
    ):
        raise Usage(command, f"{key} {value}: give octal digits, as in 0700")
    return value
