"""A three-way merge of texts by lines: what either side has changed of their common original.

Lines of the original that both sides still have are found first: lines that occur once in each of two texts tell where
they belong together ("patience diff"), and equal lines around them belong to them. Between two such places at most one
side may have changed something, or both the same. What touches is one place, as in git and diff3.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import pairwise

from overlaykit.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Overlap(Exception):
    """Both sides have changed the same lines.

    `first`, `last`: those of our side, from 1; `last` is less than `first` if there are none.
    """

    def __init__(self, first: int, last: int) -> None:
        super().__init__(first, last)
        self.first = first
        self.last = last


class _Common(NamedTuple):
    """Lines that two texts have in common: where in each, and how many."""

    left: int
    right: int
    length: int


def merge(base: bytes, ours: bytes, theirs: bytes) -> bytes:
    """What both sides make of `base`. Lines end with a line feed only. Raises: Overlap: the first one."""
    if ours == theirs or theirs == base:
        return ours
    if ours == base:
        return theirs
    original, left, right = map(_lines, (base, ours, theirs))
    merged: list[bytes] = []
    at = at_left = at_right = 0
    for start, start_left, start_right, length in _in_all(original, left, right):
        before = original[at:start]
        a, b = left[at_left:start_left], right[at_right:start_right]
        if a == b or b == before:
            merged += a
        elif a == before:
            merged += b
        else:
            raise Overlap(at_left + 1, start_left)
        merged += original[start : start + length]
        at, at_left, at_right = start + length, start_left + length, start_right + length
    return b"".join(merged)


def _lines(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def _in_all(
    base: Sequence[bytes], ours: Sequence[bytes], theirs: Sequence[bytes]
) -> Iterator[tuple[int, int, int, int]]:
    """Where in each the lines of `base` are that both others have, and how many; at last the ends of all."""
    lefts, rights = _common(base, ours), _common(base, theirs)
    i = j = 0
    while i < len(lefts) and j < len(rights):
        a, b = lefts[i], rights[j]
        start = max(a.left, b.left)
        end = min(a.left + a.length, b.left + b.length)
        if start < end:
            yield start, a.right + start - a.left, b.right + start - b.left, end - start
        if a.left + a.length <= b.left + b.length:
            i += 1
        else:
            j += 1
    yield len(base), len(ours), len(theirs), 0


def _common(left: Sequence[bytes], right: Sequence[bytes]) -> list[_Common]:
    """The lines that belong together, in the order of both texts."""
    found: list[_Common] = []
    pending = [(0, len(left), 0, len(right))]
    while pending:
        a, a_end, b, b_end = pending.pop()
        shortest = min(a_end - a, b_end - b)
        head = 0
        while head < shortest and left[a + head] == right[b + head]:
            head += 1
        tail = 0
        while tail < shortest - head and left[a_end - 1 - tail] == right[b_end - 1 - tail]:
            tail += 1
        found += [_Common(a, b, head), _Common(a_end - tail, b_end - tail, tail)]
        a, a_end, b, b_end = a + head, a_end - tail, b + head, b_end - tail
        anchors = _anchors(left[a:a_end], right[b:b_end])
        if anchors:
            # Each anchor is the first line of a range, and so is found as its head.
            bounds = [(0, 0), *anchors, (a_end - a, b_end - b)]
            pending += [
                (a + start, a + end, b + other, b + other_end)
                for (start, other), (end, other_end) in pairwise(bounds)
            ]
    return sorted(one for one in found if one.length)


def _anchors(left: Sequence[bytes], right: Sequence[bytes]) -> list[tuple[int, int]]:
    """Lines that occur once in each text: the longest series of which the order is the same in both."""
    once = [{line for line, count in Counter(text).items() if count == 1} for text in (left, right)]
    both = once[0] & once[1]
    where = {line: number for number, line in enumerate(right) if line in both}
    pairs = [(number, where[line]) for number, line in enumerate(left) if line in where]
    lasts: list[int] = []  # the least end, in `right`, of a series of each length
    ends: list[int] = []  # the pair with that end
    before: list[int] = []  # of each pair the one before it in its series
    for index, (_, other) in enumerate(pairs):
        length = bisect_left(lasts, other)
        before.append(ends[length - 1] if length else -1)
        lasts[length : length + 1] = [other]
        ends[length : length + 1] = [index]
    series = []
    index = ends[-1] if ends else -1
    while index >= 0:
        series.append(pairs[index])
        index = before[index]
    return series[::-1]
