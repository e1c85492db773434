"""Each difference that the oracle accepts is documented."""

from __future__ import annotations

import pathlib

import pytest

from .differences import DIFFERENCES, Difference

TABLE = pathlib.Path(__file__).parents[2] / "docs" / "differences.md"


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_every_difference_is_documented(difference: Difference) -> None:
    rows = {row.split(" | ")[0].strip("| ") for row in TABLE.read_text().splitlines()}
    assert difference.documented in rows
