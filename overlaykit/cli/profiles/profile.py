"""A profile: the apps of a file, checked, with errors that name the file, the line and the key."""

from __future__ import annotations

import difflib
import graphlib
import os
import re
import shlex
import tomllib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from overlaykit.cli import launch_options, run
from overlaykit.cli.options import Usage
from overlaykit.cli.profiles import schema
from overlaykit.cli.profiles.lines import lines_of
from overlaykit.errors import Error
from overlaykit.record import Record
from overlaykit.views.readiness import Ready
from overlaykit.views.registry import is_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from overlaykit.cli.profiles.lines import Path

_SECONDS: Final = 60.0
"""As long an app may take to be ready, by default."""

_TOML_TYPES: Final = {
    "array": "an array",
    "bool": "a boolean",
    "float": "a number",
    "int": "an integer",
    "null": "nothing",
    "object": "a table",
    "str": "a string",
}
"""What msgspec calls the types."""


class ProfileUnreadable(Error):
    message = "{0}: {1}: give another file with -f"


class ProfileInvalid(Error):
    message = "{0}:{1}: {2}"


class NoSuchApp(Error):
    message = "{0}: there is no app of that name in {1}{2}"


class App(Record, kw_only=True):
    """An app. `options`: of `overlaykit run`; `view`: the name of its view; `ready`: None: once it runs."""

    name: str
    view: str
    options: tuple[str, ...]
    command: tuple[str, ...]
    depends_on: tuple[str, ...]
    ready: Ready | None


class Profile:
    """The apps of a file. Attributes: `path`; `directory`, to which relative paths refer; `apps` by name."""

    def __init__(self, path: str) -> None:
        """Read and check a file. Raises: ProfileUnreadable, ProfileInvalid."""
        self.path = path
        self.directory = os.path.dirname(path)
        self._keys = schema.keys()
        data, lines = self._read()
        self._lines = {_normal(path): line for path, line in reversed(lines.items())} | lines
        self._tables = {name: self._normal(name, table) for name, table in data.items()}
        self.apps = {name: self._app(name) for name in self._tables}
        self._check_dependencies()

    def find(self, name: str) -> App:
        """Raises: NoSuchApp."""
        if name not in self.apps:
            raise NoSuchApp(name, self.path, _nearest(name, self.apps))
        return self.apps[name]

    def ordered(self, names: Iterable[str] = ()) -> list[App]:
        """The named apps and those that they depend on, these first; without names all. Raises: NoSuchApp."""
        wanted = [self.find(name).name for name in names] or list(self.apps)
        needed: list[str] = []
        while wanted:
            name = wanted.pop()
            if name not in needed:
                needed.append(name)
                wanted += self.apps[name].depends_on
        graph = {name: self.apps[name].depends_on for name in self.apps if name in needed}
        return [self.apps[name] for name in graphlib.TopologicalSorter(graph).static_order()]

    def require_startable(self, app: App) -> None:
        """Check the values of an app by the parser of the options. Raises: ProfileInvalid."""
        if not app.command and not any(one.startswith("--entrypoint=") for one in app.options):
            self._refuse((app.name,), "it has no 'command'")
        try:
            _parse(app.options)
        except (Error, OSError):
            for name, key in self._keys.items():
                for path, value in _given(self._tables[app.name], name):
                    if key.flag:
                        self._require_parsable((app.name, *path), key.words(value, self.directory))
            raise

    def _require_parsable(self, path: Path, words: Sequence[str]) -> None:
        try:
            _parse(words)
        except Usage as error:
            self._refuse(path, str(error.args[1]))
        except Error as error:
            self._refuse(path, str(error))

    def _read(self) -> tuple[dict[str, Any], dict[Path, int]]:
        try:
            with open(self.path, "rb") as file:
                raw = file.read()
        except OSError as error:
            raise ProfileUnreadable(self.path, error.strerror) from error
        try:
            text = raw.decode()
            return tomllib.loads(text), lines_of(text.replace("\r\n", "\n"))
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise ProfileInvalid(self.path, line, "this is not UTF-8") from error
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", str(error))
            line = int(found[1]) if found and found[1] else raw.count(b"\n") + 1
            said = str(error)[: found.start()] if found else str(error)
            raise ProfileInvalid(self.path, line, f"no TOML: {said}") from error

    def _normal(self, name: str, table: Any) -> dict[str, Any]:
        """The table of an app, its keys with hyphens."""
        if not isinstance(table, dict):
            self._refuse((name,), "there are only tables, one for each app: [NAME]")
        if not is_name(name):
            self._refuse(
                (name,), "name an app with up to 63 letters, digits, '.', '_' and '-' of ASCII"
            )
        found: dict[str, Any] = {}
        for given, value in table.items():
            key = given.replace("_", "-")
            if key in found:
                self._refuse((name, given), f"'{key}' is given twice")
            found[key] = value
            if key == schema.LIMITS and isinstance(value, dict):
                found[key] = {inner.replace("_", "-"): limit for inner, limit in value.items()}
        return found

    def _app(self, name: str) -> App:
        table = self._tables[name]
        self._require_known(name, table)
        values = {
            key: self._typed((name, *path), value, self._keys[key].kind)
            for key in self._keys
            for path, value in _given(table, key)
        }
        words = [
            word
            for key, value in values.items()
            if self._keys[key].flag and key != schema.NAME
            for word in self._keys[key].words(value, self.directory)
        ]
        view = str(values.get(schema.NAME, name))
        if not is_name(view):
            self._refuse((name, schema.NAME), f"'{view}' is no name of a view")
        return App(
            name=name,
            view=view,
            options=tuple(words),
            command=self._words((name, schema.COMMAND), values.get(schema.COMMAND, [])),
            depends_on=_listed(values.get(schema.DEPENDS_ON, [])),
            ready=self._ready(name, values.get(schema.READY)),
        )

    def _require_known(self, name: str, table: dict[str, Any]) -> None:
        for key, value in table.items():
            if key == schema.LIMITS:
                self._typed((name, key), value, dict)
                for inner in value:
                    self._require_key((name, key, inner), f"{key}.{inner}")
            else:
                self._require_key((name, key), key)

    def _require_key(self, path: Path, key: str) -> None:
        if key not in self._keys:
            plain = {known.rpartition(".")[2]: known for known in self._keys}
            known = plain.get(key.rpartition(".")[2], key)
            self._refuse(path, f"there is no such key{_nearest(known, self._keys)}")

    def _ready(self, name: str, given: Any) -> Ready | None:
        if given is None:
            return None
        path: Path = (name, schema.READY)
        kinds = [kind for kind in ("port", "file", "command") if getattr(given, kind) is not None]
        if len(kinds) != 1:
            self._refuse(path, "give one of 'port', 'file' and 'command'")
        timeout = _SECONDS if given.timeout is None else given.timeout
        if not 0 < timeout < float("inf"):
            self._refuse((*path, "timeout"), "give a number of seconds")
        number, _, protocol = str(given.port or "").partition("/")
        if given.port is not None and not (
            number.isdecimal() and 0 < int(number) < 1 << 16 and protocol in ("", "tcp", "udp")
        ):
            self._refuse((*path, "port"), "give 1 to 65535, or a text as '53/udp'")
        if given.file is not None and not given.file.startswith("/"):
            self._refuse((*path, "file"), "give a path in the view, from /")
        return Ready(
            port=int(number) if number else None,
            protocol=protocol or "tcp",
            file=given.file,
            command=self._words((*path, "command"), given.command or []),
            timeout=timeout,
        )

    def _words(self, path: Path, value: str | list[str]) -> tuple[str, ...]:
        """Those of a command."""
        if isinstance(value, str):
            try:
                return tuple(shlex.split(value))
            except ValueError as error:
                self._refuse(path, str(error).lower())
        return tuple(value)

    def _check_dependencies(self) -> None:
        for app in self.apps.values():
            for at, other in enumerate(app.depends_on):
                if other not in self.apps:
                    self._refuse(
                        (app.name, schema.DEPENDS_ON, at),
                        f"there is no app '{other}'{_nearest(other, self.apps)}",
                    )
        try:
            self.ordered()
        except graphlib.CycleError as error:
            cycle = error.args[1][::-1]
            self._refuse(
                (cycle[0], schema.DEPENDS_ON), f"apps wait for one another: {' -> '.join(cycle)}"
            )

    def _typed(self, path: Path, value: object, kind: Any) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            said, _, where = str(error).partition(" - at `$")
            inner = [
                int(number) if number else key
                for key, number in re.findall(r"\.([\w-]+)|\[(\d+)\]", where)
            ]
            unknown = re.fullmatch(r"Object contains unknown field `(.*)`", said)
            if unknown:
                known = [field.encode_name for field in msgspec.structs.fields(kind)]
                said = f"there is no such key{_nearest(unknown[1], known)}"
                inner.append(unknown[1])
            self._refuse((*path, *inner), _in_words(said))

    def _refuse(self, path: Path, what: str) -> Any:
        """Raises: ProfileInvalid."""
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        raise ProfileInvalid(self.path, self._line(path), f"{key.removeprefix('.')}: {what}")

    def _line(self, path: Path) -> int:
        """That of the innermost key that is known."""
        while path not in self._lines and path:
            path = path[:-1]
        return self._lines.get(path, 1)


def _normal(path: Path) -> Path:
    """A path whose keys, but for names of apps and of what is in other tables, have hyphens."""
    count = 3 if path[1:2] == (schema.LIMITS,) else 2
    return *path[:1], *(str(key).replace("_", "-") for key in path[1:count]), *path[count:]


def _given(table: dict[str, Any], key: str) -> list[tuple[Path, Any]]:
    """The value of a key, if the table has it, with its path."""
    outer, dot, inner = key.partition(".")
    if dot:
        limits = table.get(outer, {})
        return [((outer, inner), limits[inner])] if inner in limits else []
    return [((key,), table[key])] if key in table else []


def _listed(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _parse(options: Sequence[str]) -> None:
    """Parse options as `overlaykit run` does. Raises: Error, OSError."""
    args, _ = run.parse([*options, "--name=app", "--", "true"])
    launch_options.check_restart(args, detached=True)
    run.parts(args)
    launch_options.identity(args)
    launch_options.process("run", args)
    launch_options.contents("run", args)
    launch_options.environment("run", args)


def _nearest(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f": is '{found[0]}' meant?" if found else ""


def _in_words(said: str) -> str:
    """What msgspec says, in the words of TOML."""
    expected, _, got = said.partition(", got ")
    kinds = re.findall(r"\w+", expected.removeprefix("Expected ")) if got else []
    if not kinds:
        return said
    names = " or ".join(_TOML_TYPES.get(kind, kind) for kind in kinds)
    given = got.strip("`")
    return f"give {names}, not {_TOML_TYPES.get(given, given)}"
