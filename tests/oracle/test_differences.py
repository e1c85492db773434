"""Each difference that the oracle accepts is documented."""

from __future__ import annotations

import pathlib

import pytest

from .differences import DIFFERENCES, UNSHOWN, Difference, Unshown

TABLE = pathlib.Path(__file__).parents[2] / "docs" / "differences.md"


@pytest.mark.parametrize(
    "difference", [*DIFFERENCES, *UNSHOWN], ids=lambda one: getattr(one, "name", "") or one.feature
)
def test_every_difference_is_documented(difference: Difference | Unshown) -> None:
    rows = {row.split(" | ")[0].strip("| ") for row in TABLE.read_text().splitlines()}
    assert difference.documented in rows
