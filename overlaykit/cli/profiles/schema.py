"""The keys of an app's table and their types: one for each option of `overlaykit run`, and a few of `up`'s own."""

from __future__ import annotations

import csv
import io
import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from overlaykit.cli import launch_options, run
from overlaykit.cli.options import SUPPRESS, Options
from overlaykit.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS: Final = "limits"
"""The table of those options that `launch_options.declare_limits` declares."""

COMMAND: Final = "command"
DEPENDS_ON: Final = "depends-on"
READY: Final = "ready"
NAME: Final = "name"

_OF_CALLER: Final = (
    "--args",
    "--bind-data",
    "--detach",
    "--file",
    "--json-status-fd",
    "--perms",
    "--preserve-fd",
    "--preserve-fds",
    "--ro-bind-data",
    "--size",
)
"""Options that say nothing of an app."""

_PLURALS: Final = {
    "-l": "layers",
    "--device": "devices",
    "--dir": "directories",
    "--label": "labels",
    "--mount": "mounts",
    "--publish": "ports",
    "--socket": "sockets",
    "--symlink": "symlinks",
    "--ulimit": "ulimits",
    "--volume": "volumes",
}
"""Keys that are not named as the option."""

_NUMBERS: Final = (
    "--cpuset-cpus",
    "--disk",
    "--memory",
    "--memory-swap",
    "--shm-size",
    "--user",
)
"""Options whose texts may be numbers."""

_TABLES: Final = ("--env", "--label", "--ulimit")
"""Options whose values are KEY=VALUE; a table may hold them."""

Text = str | int | float
"""What becomes the text of an option."""

_PAIRS: Final = list[tuple[str, str]]


class Ready(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """When an app is ready for those that depend on it: one of the first three."""

    port: str | int | None = None
    file: str | None = None
    command: str | list[str] | None = None
    timeout: float | None = None


class Key(Record, kw_only=True):
    """A key. `kind`: its type, for msgspec; `flag`: its option; `help`: that of the option."""

    name: str
    kind: Any
    help: str
    flag: str = ""

    def words(self, value: Any, directory: str) -> list[str]:
        """The words of a command line that give the option the value; relative paths are those of `directory`.

        Requires: `value` is of the type `kind`.
        """
        if isinstance(value, bool):
            return [self.flag] if value else []
        absolute = _PATHS.get(self.flag, _plain)
        if isinstance(value, dict):
            value = [f"{key}={item}" for key, item in value.items()]
        if self.kind == _PAIRS:
            return [
                word
                for source, target in value
                for word in (self.flag, absolute(source, directory), target)
            ]
        values = value if isinstance(value, list) else [value]
        return [f"{self.flag}={absolute(str(one), directory)}" for one in values]


def describe(key: Key) -> str:
    """The type of a key, as a man page has it."""
    table = "{ KEY = VALUE, ... }"
    named = {
        bool: "true",
        int: "NUMBER",
        float: "NUMBER",
        str: '"TEXT"',
        Ready: "{ ... }",
        _PAIRS: '[["SRC", "DST"], ...]',
        str | list[str]: '["TEXT", ...]',
        str | int: '"TEXT" or NUMBER',
    }
    return str(named.get(key.kind, f'["KEY=VALUE", ...] or {table}'))


def keys() -> dict[str, Key]:
    """All keys by their names; those in the table of limits begin with `limits.`."""
    of_limits = Options(run.bare_parser)
    launch_options.declare_limits(of_limits)
    limited = {flags for flags, _ in of_limits.declared()}
    found = []
    for flags, keywords in run.options().declared():
        flag = max(flags, key=len)
        if flag.startswith("-") and flag not in _OF_CALLER and keywords.get("help") != SUPPRESS:
            name = _PLURALS.get(flag, flag.removeprefix("--"))
            found.append(_key(f"{LIMITS}.{name}" if flags in limited else name, flag, keywords))
    found += [
        Key(name=COMMAND, kind=str | list[str], help="the command, in words, or as in a shell"),
        Key(
            name=DEPENDS_ON, kind=str | list[str], help="apps that are to be ready before this one"
        ),
        Key(
            name=READY,
            kind=Ready,
            help="when the app is ready: a table with 'port', that the view listens on; or 'file', that is there; or"
            " 'command', that succeeds in the view; and 'timeout' in seconds (default: once it runs)",
        ),
    ]
    return {key.name: key for key in found}


def _key(name: str, flag: str, keywords: dict[str, Any]) -> Key:
    kind: Any
    if keywords.get("action") == "store_true":
        kind = bool
    elif keywords.get("nargs") == 2:
        kind = _PAIRS
    elif keywords.get("action") == "append":
        kind = str | list[str] | dict[str, Text] if flag in _TABLES else str | list[str]
    elif keywords.get("type") in (int, float):
        kind = keywords["type"]
    else:
        kind = str | int if flag in _NUMBERS else str
    return Key(name=name, kind=kind, help=keywords["help"], flag=flag)


def _plain(text: str, _: str) -> str:
    return text


def _file(text: str, directory: str) -> str:
    return os.path.join(directory, os.path.expanduser(text))


def _layer(text: str, directory: str) -> str:
    if text.startswith("dir:"):
        return f"dir:{_file(text.removeprefix('dir:'), directory)}"
    return _file(text, directory) if "/" in text else text


def _volume(text: str, directory: str) -> str:
    source, colon, rest = text.partition(":")
    return f"{_file(source, directory)}{colon}{rest}"


def _mount(text: str, directory: str) -> str:
    try:
        (fields,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):  # which the parser of the option explains
        return text
    for at, field in enumerate(fields):
        name, equals, value = field.partition("=")
        if name in ("src", "source") and equals:
            fields[at] = f"{name}={_file(value, directory)}"
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(fields)
    return row.getvalue()


def _security(text: str, directory: str) -> str:
    what, equals, value = text.partition("=")
    if what != "seccomp" or value == "unconfined":
        return text
    return f"{what}{equals}{_file(value, directory)}"


_PATHS: Final[dict[str, Callable[[str, str], str]]] = {
    "-l": _layer,
    "--upper": _file,
    "--bind": _file,
    "--bind-try": _file,
    "--dev-bind": _file,
    "--dev-bind-try": _file,
    "--ro-bind": _file,
    "--ro-bind-try": _file,
    "--volume": _volume,
    "--mount": _mount,
    "--env-file": _file,
    "--security-opt": _security,
}
"""Options that name files of the host."""
