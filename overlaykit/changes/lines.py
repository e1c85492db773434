"""The difference of two texts by lines, as the hunks of a unified diff."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CONTEXT: Final = 3
_NO_NEWLINE: Final = b"\\ No newline at end of file\n"


class Hunks(NamedTuple):
    """The text of all hunks, how many lines they add and remove, and how many of all lines stay, in percent."""

    text: bytes
    added: int
    removed: int
    similarity: int


def hunks(old: bytes, new: bytes) -> Hunks:
    """The hunks that make `new` out of `old`. Lines end with a line feed only."""
    left, right = _lines(old), _lines(new)
    text: list[bytes] = []
    added = removed = 0
    for group in _grouped(left, right):
        first, last = group[0], group[-1]
        text.append(b"@@ -%b +%b @@\n" % (_range(first[1], last[2]), _range(first[3], last[4])))
        for tag, start, end, new_start, new_end in group:
            if tag == "equal":
                text += map(_line, [b" "] * (end - start), left[start:end])
                continue
            text += map(_line, [b"-"] * (end - start), left[start:end])
            text += map(_line, [b"+"] * (new_end - new_start), right[new_start:new_end])
            removed += end - start
            added += new_end - new_start
    most = max(len(left), len(right), 1)
    return Hunks(b"".join(text), added, removed, 100 - 100 * max(added, removed) // most)


def _lines(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def _line(sign: bytes, line: bytes) -> bytes:
    return sign + line if line.endswith(b"\n") else sign + line + b"\n" + _NO_NEWLINE


def _range(start: int, end: int) -> bytes:
    """A range of lines as in a hunk's header: numbers are from 1, of an empty one the line before."""
    length = end - start
    if length == 1:
        return b"%d" % (start + 1)
    return b"%d,%d" % (start + 1 if length else start, length)


_Change = tuple[str, int, int, int, int]


def _grouped(old: Sequence[bytes], new: Sequence[bytes]) -> Iterator[list[_Change]]:
    """The groups of changes with their context, as SequenceMatcher.get_grouped_opcodes.

    Only what lies between the first and the last lines that differ is compared: the time goes with the change.
    """
    shortest = min(len(old), len(new))
    head = 0
    while head < shortest and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < shortest - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    before = min(head, _CONTEXT)
    after = min(tail, _CONTEXT)
    start = head - before
    matcher = SequenceMatcher(
        None, old[start : len(old) - tail + after], new[start : len(new) - tail + after]
    )
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        yield [(tag, a + start, b + start, c + start, d + start) for tag, a, b, c, d in group]
