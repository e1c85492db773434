"""A process of a view is killed at a random moment: a few times here, 200 times in tests/proofs/views."""

from __future__ import annotations

import random

import pytest

from .fixtures import with_both_drivers
from .killing import kill_one_of_a_detached_view, kill_one_of_an_attached_view
from .user import TestUser

pytestmark = with_both_drivers


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.one_in(4)
def test_a_killed_process_of_a_view_is_named_and_leaves_nothing(user: TestUser, seed: int) -> None:
    kill_one_of_an_attached_view(user, random.Random(seed))


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_process_of_a_detached_view_is_in_its_log(user: TestUser, seed: int) -> None:
    kill_one_of_a_detached_view(user, random.Random(seed))
