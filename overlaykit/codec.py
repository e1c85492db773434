"""Encode and decode structs as JSON, for messages between processes and for files.

File names may be any bytes. They are encoded as Python's surrogates (PEP 383), which json can escape and msgspec's
own encoder cannot.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def encode(value: object) -> bytes:
    """One line of ASCII, without a newline."""
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode("ascii")


def decode(raw: bytes, type: type[T] | Any) -> T:  # noqa: A002  # as msgspec calls it
    """Decode a value of `type`.

    Raises:
      ValueError: `raw` is no JSON, or not of that type (msgspec.ValidationError).
    """
    decoded: T = msgspec.convert(json.loads(raw), type)
    return decoded


def encode_pretty(value: object) -> str:
    """Indented JSON, for the output of a command."""
    return json.dumps(msgspec.to_builtins(value), indent=2)
