"""On which line of a TOML text each key stands: tomllib does not keep it."""

from __future__ import annotations

import tomllib
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Keys from the top; the number of an element in an array."""

_SPACE: Final = " \t"
_BLANK: Final = " \t\r\n"
_QUOTES: Final = ('"""', "'''", '"', "'")
_END_OF_VALUE: Final = ",]}#\r\n"


def lines_of(text: str) -> dict[Path, int]:
    """The line of the first mention of each key, and of each element of an array, from 1.

    Requires: `text` is TOML.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


class _Scanner:
    """`at` goes through `text` once; what is found is in `found`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        while self._skip(_BLANK, comments=True):
            if self.text[self.at] == "[":
                brackets = 2 if self.text.startswith("[[", self.at) else 1
                self.at += brackets
                table = self._key((), end="]")
                self.at += brackets
            else:
                self._pair(table)

    def _pair(self, table: Path) -> None:
        path = self._key(table, end="=")
        self.at += 1
        self._value(path)

    def _key(self, table: Path, *, end: str) -> Path:
        """Read a dotted key up to the character `end`, and note the line of each of its parts."""
        begin = self.at
        line = self._line()
        while self.text[self.at] != end:
            if not self._string():
                self.at += 1
        inner: object = tomllib.loads(f"{self.text[begin : self.at]} = 0")
        path = table
        while isinstance(inner, dict):
            ((name, inner),) = inner.items()
            path = (*path, name)
            self.found.setdefault(path, line)
        return path

    def _value(self, path: Path) -> None:
        self._skip(_SPACE)
        if self._string():
            return
        if self.text[self.at] == "[":
            self.at += 1
            number = 0
            while self._skip(f"{_BLANK},", comments=True) and self.text[self.at] != "]":
                self.found.setdefault((*path, number), self._line())
                self._value((*path, number))
                number += 1
            self.at += 1
        elif self.text[self.at] == "{":
            self.at += 1
            while self._skip(f"{_BLANK},", comments=True) and self.text[self.at] != "}":
                self._pair(path)
            self.at += 1
        else:
            while self.at < len(self.text) and self.text[self.at] not in _END_OF_VALUE:
                self.at += 1

    def _string(self) -> bool:
        """Go over a string, if there is one."""
        quote = next((one for one in _QUOTES if self.text.startswith(one, self.at)), None)
        if quote is None:
            return False
        self.at += len(quote)
        while not self.text.startswith(quote, self.at):
            self.at += 2 if quote[0] == '"' and self.text[self.at] == "\\" else 1
        self.at += len(quote)
        # A multi-line string may end in one or two quotation marks of its own.
        while len(quote) == 3 and self.text.startswith(quote[0], self.at):
            self.at += 1
        return True

    def _skip(self, blanks: str, *, comments: bool = False) -> bool:
        """Go over characters and comments. Returns: whether there is more."""
        while self.at < len(self.text):
            if comments and self.text[self.at] == "#":
                while self.at < len(self.text) and self.text[self.at] != "\n":
                    self.at += 1
            elif self.text[self.at] in blanks:
                self.at += 1
            else:
                return True
        return False

    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1
