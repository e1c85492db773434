"""The options of a command that starts at once, declared as for argparse.

The import of argparse costs 8 ms. It is loaded for help, mistakes and unusual forms: what it says counts.
"""

from __future__ import annotations

from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final

    from overlaykit.cli.arguments import Parser

REMAINDER: Final = "..."
"""`nargs` of the last argument, which takes all that follows (argparse.REMAINDER)."""

SUPPRESS: Final = "==SUPPRESS=="
"""`help` of an argument that is not shown (argparse.SUPPRESS)."""

LAYERS: Final[dict[str, Any]] = {
    "dest": "layers",
    "metavar": "LAYER",
    "action": "append",
    "default": [],
    "help": "a layer below the directory of an upper, as of 'run' (default: host)",
}
"""Of `-l`, which may be given several times, of commands that compare an upper that no view or mount has."""


class Usage(Error):
    message = "{0}: {1}: see 'overlaykit {0} --help'"


class Values:
    """The values of the options, as attributes."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Options:
    """The options of one command. The last argument takes all from the first one on that is no option.

    `make`: makes the parser without options. If it has the arguments, and none is declared here, `parse_plain` gives
    them as `rest`.
    """

    def __init__(self, make: Callable[[], Parser]) -> None:
        self._make = make
        self._declared: list[tuple[int, tuple[str, ...], dict[str, Any]]] = []
        self._groups = 0

    def add_argument(self, *flags: str, **keywords: Any) -> None:
        """Declare an option: a subset of what argparse's method takes; `nargs` only with the action "append"."""
        self._declared.append((0, flags, keywords))

    def add_exclusive(self, *options: tuple[str, dict[str, Any]]) -> None:
        """Declare options of which one may be given; several flags of one are separated by spaces."""
        self._groups += 1
        self._declared += [
            (self._groups, tuple(flags.split()), keywords) for flags, keywords in options
        ]

    def declared(self) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
        """The flags of each argument, and its keywords as for argparse."""
        return [(flags, keywords) for _, flags, keywords in self._declared]

    def parse(self, arguments: Sequence[str]) -> Any:
        """Parse the arguments. Raises: Usage; SystemExit after --help."""
        return self.parse_plain(arguments) or self.parser().parse_args(arguments)

    def parser(self) -> Parser:
        """The parser of argparse."""
        import argparse

        parser = self._make()
        groups = {0: parser.add_argument}
        for group, flags, keywords in self._declared:
            if keywords.get("help") == SUPPRESS:
                keywords = keywords | {"help": argparse.SUPPRESS}  # compared by identity
            if group not in groups:
                groups[group] = parser.add_mutually_exclusive_group().add_argument
            groups[group](*flags, **keywords)
        return parser

    def parse_plain(self, arguments: Sequence[str]) -> Values | None:
        """Parse options that are written in full, and separately or after a "="; None if there are other forms."""
        options: dict[str, tuple[int, str, dict[str, Any]]] = {}
        values = Values()
        remainder = "rest"
        for group, flags, keywords in self._declared:
            name = keywords.get("dest") or flags[-1].lstrip("-").replace("-", "_")
            default = keywords.get("default", False if _is_switch(keywords) else None)
            setattr(values, name, list(default) if isinstance(default, list) else default)
            if flags[0].startswith("-"):
                options |= dict.fromkeys(flags, (group, name, keywords))
            else:
                remainder = name
        given: set[tuple[int, str]] = set()
        rest = list(arguments)
        while rest and rest[0].startswith("-") and rest[0] != "--":
            flag, equals, value = rest.pop(0).partition("=")
            if flag not in options:
                letters = flag.removeprefix("-")
                if (
                    equals
                    or not letters
                    or not all(_is_short_switch(options.get(f"-{one}")) for one in letters)
                ):
                    return None
                rest[:0] = (f"-{one}" for one in letters)
                continue
            group, name, keywords = options[flag]
            if _is_switch(keywords):
                if equals:
                    return None
                setattr(values, name, True)
            elif "nargs" in keywords:
                words, rest = rest[: keywords["nargs"]], rest[keywords["nargs"] :]
                if equals or len(words) < keywords["nargs"] or any(w[:1] == "-" for w in words):
                    return None
                getattr(values, name).append(words)
            else:
                if not equals:
                    if not rest or rest[0].startswith("-"):
                        return None
                    value = rest.pop(0)
                if value not in keywords.get("choices", (value,)):
                    return None
                try:
                    converted = keywords.get("type", str)(value)
                except ValueError:
                    return None
                if keywords.get("action") == "append":
                    getattr(values, name).append(converted)
                else:
                    setattr(values, name, converted)
            if group and any(one[0] == group and one[1] != name for one in given):
                return None
            given.add((group, name))
        setattr(values, remainder, rest)
        return values


def _is_short_switch(declared: tuple[int, str, dict[str, Any]] | None) -> bool:
    return declared is not None and _is_switch(declared[2])


def _is_switch(keywords: dict[str, Any]) -> bool:
    return keywords.get("action") == "store_true"
