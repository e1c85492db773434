"""Encode and decode records as JSON, for messages between processes and for files.

The "type" of a message is the name of its class. File names may be any bytes, which are surrogates in Python (PEP 383).
The package json takes 7 ms with re, twice as long as bwrap in all: its scanner, which is C, decodes without it.
"""

from __future__ import annotations

import sys

from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn, TypeVar

    T = TypeVar("T")

_TYPE: Final = "type"
_ESCAPES: Final = {code: f"\\u{code:04x}" for code in (*range(0x20), ord('"'), ord("\\"))}
_BLANKS: Final = " \t\n\r"
_UNION: Final[Any] = type(int | str)

_kinds: Final[dict[tuple[str | None, str], Any]] = {}
"""Annotations as they were evaluated, by the name of the module and the text."""


class _Literal:
    """What `Literal` is in an annotation: the set of its values."""

    def __class_getitem__(cls, values: object) -> frozenset[object]:
        return frozenset(values if isinstance(values, tuple) else (values,))


def encode(message: Record) -> bytes:
    """One line of UTF-8, without a newline. Raises: TypeError for a value that `convert` does not give."""
    # Python writes a surrogate as JSON does.
    text = _written({_TYPE: type(message).__name__} | vars(message))
    return text.encode("utf-8", "backslashreplace")


def line(value: dict[str, object]) -> bytes:
    """A line of UTF-8 that holds a JSON object, with a newline. Raises: as `encode`."""
    return _written(value).encode("utf-8", "backslashreplace") + b"\n"


def parsed(raw: bytes) -> dict[str, Any]:
    """The members of a JSON object. Raises: ValueError: `raw` is something else."""
    try:
        data = _loaded(raw.decode().strip(_BLANKS))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError("no object")
    return data


def decode(raw: bytes, kind: type[T] | Any) -> T:
    """Decode a record of the class `kind`, or of one of a union of classes.

    Raises: ValueError: `raw` is something else.
    """
    try:
        data = parsed(raw)
        name = data.pop(_TYPE)
        for one in getattr(kind, "__args__", (kind,)):
            if one.__name__ == name:
                found: T = convert(data, one)
                return found
        raise ValueError("of another type")
    except (KeyError, TypeError, ValueError) as error:
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


class _Reading:
    """How the scanner makes values, as `json.JSONDecoder` tells it."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")


def _loaded(text: str) -> Any:
    """The value of a text without blanks around it."""
    import _json  # a shared object, only for those that decode

    try:
        value, end = _json.make_scanner(_Reading)(text, 0)  # type: ignore[arg-type]
        if end == len(text):
            return value
    except (StopIteration, SystemError):  # Python 3.11 names a mistake only if json is loaded
        pass
    import json

    return json.loads(text, parse_constant=_Reading.parse_constant)


def _written(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value.translate(_ESCAPES)}"'
        case int():
            return repr(value)
        case float() if value - value == 0:  # neither infinite nor NaN
            return repr(value)
        case list() | tuple():
            return f"[{','.join(map(_written, value))}]"
        case dict():
            return f"{{{','.join(f'{_written(k)}:{_written(v)}' for k, v in value.items())}}}"
        case Record():
            return _written(vars(value))
    raise TypeError(f"{value!r} cannot be encoded")


def _convert(data: Any, kind: Any, scope: dict[str, Any]) -> Any:
    """As `convert`. `kind`: a type, or an annotation in the module whose names are `scope`."""
    while isinstance(kind, str):
        text = (scope.get("__name__"), kind)
        kind = _kinds.get(text)
        if kind is None:
            names = {**scope, "Literal": _Literal}
            kind = _kinds[text] = eval(text[1], names)  # noqa: S307  # text of a source file
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
