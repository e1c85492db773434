"""Encode and decode records as JSON, for messages between processes and for files.

The "type" of a message is the name of its class. File names may be any bytes: a name that is not UTF-8 is written as it
is. The package json is not imported for messages: with re it takes longer than the rest of a launcher.
"""

from __future__ import annotations

import sys

from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, TypeVar

    T = TypeVar("T")

_TYPE: Final = "type"
_ESCAPES: Final = {code: f"\\u{code:04x}" for code in (*range(0x20), ord('"'), ord("\\"))}
_WORDS: Final = {"null": None, "true": True, "false": False}
_UNION: Final[Any] = type(int | str)


class _Literal:
    """What `Literal` is in an annotation: the set of its values."""

    def __class_getitem__(cls, values: object) -> frozenset[object]:
        return frozenset(values if isinstance(values, tuple) else (values,))


def encode(message: Record) -> bytes:
    """One line, without a newline. Fields may hold what `convert` gives, and lists."""
    return _written({_TYPE: type(message).__name__} | vars(message)).encode(
        "utf-8", "surrogateescape"
    )


def decode(raw: bytes, kind: type[T] | Any) -> T:
    """Decode what `encode` wrote, a newline may follow: a record of the class `kind`, or of one of a union of classes.

    Raises: ValueError: `raw` is something else.
    """
    try:
        text = raw.decode("utf-8", "surrogateescape")
        data, end = _read(text, 0)
        if text[end:].rstrip("\n"):
            raise ValueError("more follows")
        name = data.pop(_TYPE) if isinstance(data, dict) else None
        for one in getattr(kind, "__args__", (kind,)):
            if one.__name__ == name:
                found: T = convert(data, one)
                return found
        raise ValueError("of another type")
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a message: {raw[:80]!r}: {error}") from error


def convert(data: object, kind: type[T]) -> T:
    """Make a record of the class `kind` from the data that JSON knows.

    Its fields are annotated with str, int, float, bool, None, tuples, dict[str, X], records, Literal, and unions
    of all but Literal.
    Raises: TypeError, or what the record raises: the data do not match.
    """
    found: T = _convert(data, kind, {})
    return found


def plain(value: object) -> object:
    """The data that JSON knows, of a record or of what its fields may hold."""
    match value:
        case Record():
            return {name: plain(item) for name, item in vars(value).items()}
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return value


def encode_pretty(value: object) -> str:
    """The same as indented JSON, for the output of a command."""
    import json

    return json.dumps(plain(value), indent=2)


def _written(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value.translate(_ESCAPES)}"'
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{','.join(map(_written, value))}]"
        case dict():
            return f"{{{','.join(f'{_written(k)}:{_written(v)}' for k, v in value.items())}}}"
        case Record():
            return _written(vars(value))
    raise TypeError(f"{value!r} cannot be encoded")


def _read(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at an index, and the index after it. Raises: ValueError, IndexError."""
    first = text[at]
    if first == '"':
        end = text.index('"', at + 1)
        unescaped, *escaped = text[at + 1 : end].split("\\u")
        return unescaped + "".join(chr(int(part[:4], 16)) + part[4:] for part in escaped), end + 1
    if first == "[":
        items: list[Any] = []
        while text[at + 1] != "]":
            item, at = _read(text, at + 1)
            items.append(item)
            at = _at_last_of_item(text, at, "]")
        return items, at + 2
    if first == "{":
        members: dict[str, Any] = {}
        while text[at + 1] != "}":
            name, at = _read(text, at + 1)
            if text[at] != ":":
                raise ValueError("no colon")
            members[name], at = _read(text, at + 1)
            at = _at_last_of_item(text, at, "}")
        return members, at + 2
    end = at
    while end < len(text) and text[end] not in ",:]}":
        end += 1
    word = text[at:end]
    if word in _WORDS:
        return _WORDS[word], end
    return float(word) if "." in word or "e" in word else int(word), end


def _at_last_of_item(text: str, at: int, closing: str) -> int:
    """The index of the comma at `at`, or the one before the closing bracket there."""
    if text[at] == closing:
        return at - 1
    if text[at] != ",":
        raise ValueError("no comma")
    return at


def _convert(data: Any, kind: Any, scope: dict[str, Any]) -> Any:
    """As `convert`. `kind`: a type, or an annotation in the module whose names are `scope`."""
    while isinstance(kind, str):
        kind = eval(kind, {**scope, "Literal": _Literal})  # noqa: S307  # text of a source file
    if isinstance(kind, _UNION):
        for option in kind.__args__:
            try:
                return _convert(data, option, scope)
            except TypeError:
                continue
    elif isinstance(kind, frozenset):
        if isinstance(data, str | int) and data in kind:
            return data
    elif getattr(kind, "__origin__", None) is tuple and isinstance(data, list):
        kinds = kind.__args__
        if kinds[-1] is ...:
            kinds = kinds[:1] * len(data)
        return tuple(_convert(*pair, scope) for pair in zip(data, kinds, strict=True))
    elif getattr(kind, "__origin__", None) is dict and isinstance(data, dict):
        return {key: _convert(item, kind.__args__[1], scope) for key, item in data.items()}
    elif isinstance(kind, type) and issubclass(kind, Record) and isinstance(data, dict):
        scope = vars(sys.modules[kind.__module__])
        return kind(
            **{name: _convert(item, kind.fields.get(name), scope) for name, item in data.items()}
        )
    elif type(data) is kind or (data is None and kind is None):
        return data
    elif kind is float and type(data) is int:
        return float(data)
    raise TypeError(f"{data!r} is no {kind}")
