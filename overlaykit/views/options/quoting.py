"""Separators and quotes of mount options, as the kernel's overlayfs and libfuse read them.

Options end at a comma, lowers at a colon. A backslash escapes the next character; with three octal digits it is a byte
(libfuse: lib/fuse_opt.c). The value of an SELinux context may be quoted (mount(8)), because it may hold commas.
"""

from __future__ import annotations

import os
import re
from typing import Final

_OPTION: Final = re.compile(
    r"""
    ( (?:fs|def|root)?context="[^"]*" (?=,|\Z)  # quoted
    | (?: [^\\,] | \\. | \\\Z )*
    ) (?:,|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_LOWER: Final = re.compile(r"( (?: [^\\:] | \\. | \\\Z )* ) (?::|\Z)", re.VERBOSE | re.DOTALL)
_ESCAPE: Final = re.compile(rb"\\([0-3][0-7]{2}|.|\Z)", re.DOTALL)


def split_options(text: str) -> list[str]:
    """The options of one `-o`, still quoted; empty ones are left out."""
    return [option for option in _pieces(_OPTION, text) if option]


def split_lowers(text: str) -> list[str]:
    """The lowers between the colons, still quoted; some may be empty."""
    return _pieces(_LOWER, text)


def unescape(text: str) -> str:
    """The text without its backslashes, as the kernel's overlayfs reads upperdir= (fs/overlayfs/params.c)."""
    return os.fsdecode(_ESCAPE.sub(_escaped, os.fsencode(text)))


def unescape_comma(text: str) -> str:
    """The text as the kernel's overlayfs reads lowerdir+=: a backslash only escapes a comma."""
    return text.replace("\\,", ",")


def unquote(text: str) -> str:
    """The text without double quotes around it."""
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1] if quoted else text


def _pieces(pattern: re.Pattern[str], text: str) -> list[str]:
    pieces, position = [], 0
    while position < len(text):
        found = pattern.match(text, position)
        assert found is not None, "the pattern matches any text"
        pieces.append(found[1])
        position = found.end()
    return pieces


def _escaped(match: re.Match[bytes]) -> bytes:
    escaped = match[1]
    return bytes([int(escaped, 8)]) if len(escaped) == 3 else escaped
