"""When a view is started again."""

from __future__ import annotations

import pytest

from overlaykit.views import restarting
from overlaykit.views.restarting import FIRST, BadPolicy, Policy, Try


def test_pauses_double_until_a_command_ran_for_long() -> None:
    policy = restarting.parse("always")
    pauses, one = [], FIRST
    for _ in range(12):
        following = restarting.next_try(policy, one, status=0, ran=0)
        assert following is not None
        pauses.append(following.pause)
        one = following
    assert pauses == [100 * 2**n for n in range(10)] + [60_000, 60_000]
    assert restarting.next_try(policy, one, status=0, ran=20_000) == Try(13, 100)


@pytest.mark.parametrize(
    ("text", "status", "number", "follows"),
    [
        ("no", 1, 0, False),
        ("on-failure", 0, 0, False),
        ("on-failure", 1, 1000, True),
        ("on-failure:3", 1, 2, True),
        ("on-failure:3", 1, 3, False),
        ("always", 0, 1000, True),
        ("unless-stopped", 0, 1000, True),
    ],
)
def test_a_policy_says_whether_a_start_follows(
    text: str, status: int, number: int, follows: bool
) -> None:
    last = Try(number, 100)
    found = restarting.next_try(restarting.parse(text), last, status=status, ran=0)
    assert (found is not None) == follows


@pytest.mark.parametrize(
    "text", ["", "sometimes", "always:3", "on-failure:", "on-failure:x", "no:1"]
)
def test_a_policy_that_is_none_is_named(text: str) -> None:
    with pytest.raises(BadPolicy, match="give no, on-failure, on-failure:N, always or unless-stop"):
        restarting.parse(text)


def test_a_policy_has_a_number() -> None:
    assert restarting.parse("on-failure:5") == Policy("on-failure", 5)
