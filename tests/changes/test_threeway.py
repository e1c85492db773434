"""Three-way merges of texts: each change of either side is in the result, or they touch and that is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaykit.changes.threeway import Overlap, merge

from ..untimed import UNTIMED

LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"}\n", b"\n"]), max_size=12)


@st.composite
def apart(draw: st.DrawFn) -> tuple[bytes, bytes, bytes, bytes]:
    """A text, two that differ from it on two sides of a line that occurs nowhere else, and both changes."""
    fixed = b"fixed\n"
    before, other, after, another = (b"".join(draw(LINES)) for _ in range(4))
    return (
        before + fixed + after,
        other + fixed + after,
        before + fixed + another,
        other + fixed + another,
    )


@UNTIMED
@given(apart())
def test_changes_apart_are_both_made(texts: tuple[bytes, bytes, bytes, bytes]) -> None:
    base, ours, theirs, both = texts
    assert merge(base, ours, theirs) == merge(base, theirs, ours) == both


@UNTIMED
@given(st.tuples(LINES, LINES, LINES))
def test_sides_may_be_exchanged(texts: tuple[list[bytes], ...]) -> None:
    base, ours, theirs = map(b"".join, texts)
    try:
        merged = merge(base, ours, theirs)
    except Overlap:
        with pytest.raises(Overlap):
            merge(base, theirs, ours)
    else:
        assert merged == merge(base, theirs, ours)
        assert merge(base, ours, base) == ours


@pytest.mark.parametrize(
    ("ours", "theirs", "where"),
    [
        (b"1\nx\n3\n", b"1\ny\n3\n", (2, 2)),
        (b"1\nx\n3\n", b"1\n2\ny\n", (2, 3)),
        (b"1\n2\n3\nx\n", b"1\n2\n3\ny\n", (4, 4)),
        (b"1\n3\n", b"1\ny\n3\n", (2, 1)),
    ],
    ids=["one line", "next to each other", "both add", "one removes"],
)
def test_changes_that_touch_are_named(ours: bytes, theirs: bytes, where: tuple[int, int]) -> None:
    with pytest.raises(Overlap) as found:
        merge(b"1\n2\n3\n", ours, theirs)
    assert (found.value.first, found.value.last) == where
