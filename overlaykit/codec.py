"""Structs as JSON, for what crosses from one process to another or to disk.

Names may be any bytes: they travel as Python's surrogates (PEP 383), which JSON can escape and msgspec's own encoder
cannot.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def encode(value: object) -> bytes:
    """One line of ASCII, without the end of the line."""
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode("ascii")


def decode(raw: bytes, type: type[T] | Any) -> T:  # noqa: A002  # as msgspec calls it
    """Raises ValueError (msgspec.ValidationError, or json's own) for what is not of that type."""
    decoded: T = msgspec.convert(json.loads(raw), type)
    return decoded


def encode_pretty(value: object) -> str:
    """For a person, or a program that reads standard output: indented."""
    return json.dumps(msgspec.to_builtins(value), indent=2)
