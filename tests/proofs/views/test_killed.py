"""Launcher, supervisor (which forwards the published ports), init or daemon killed at a random moment, 208 times.

And what connects a view outward, 16 times.
"""

from __future__ import annotations

import random

import pytest

from ...views.fixtures import in_all_variants
from ...views.killing import (
    kill_one_of_a_detached_view,
    kill_one_of_an_attached_view,
    kill_the_helper_of_a_view,
)
from ...views.user import TestUser

SEEDS = range(100, 113)
"""Each in eight variants: root and an ordinary user, both drivers, with and without a server."""


@in_all_variants
@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_process_of_a_view_is_named_and_leaves_nothing(user: TestUser, seed: int) -> None:
    kill_one_of_an_attached_view(user, random.Random(seed))


@in_all_variants
@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_process_of_a_detached_view_is_in_its_log(user: TestUser, seed: int) -> None:
    kill_one_of_a_detached_view(user, random.Random(seed))


@in_all_variants
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_a_view_goes_on_without_its_helper_and_says_so(user: TestUser, seed: int) -> None:
    kill_the_helper_of_a_view(user, random.Random(seed))
