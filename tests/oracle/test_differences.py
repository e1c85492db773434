"""A difference that the oracle lets pass is one that users are told of."""

from __future__ import annotations

import pathlib

import pytest

from .differences import DIFFERENCES, Difference

README = pathlib.Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_every_difference_is_told_in_the_readme(difference: Difference) -> None:
    asked_for = {row.split(" | ")[0].strip("| ") for row in README.read_text().splitlines()}
    assert difference.readme in asked_for
