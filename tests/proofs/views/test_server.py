"""A thousand views in a loop: the fork server does not grow, and nothing is left."""

from __future__ import annotations

import os

from ...views.serving import footprint, memory, running, switched_on
from ...views.user import TestUser

VIEWS = 1000

GROWTH = 512
"""KiB: a few pages that are written for the first time."""


def test_a_thousand_views_leave_nothing_and_the_server_as_it_was(user: TestUser) -> None:
    user.set_deadline(3600)
    with switched_on():
        for _ in range(10):
            user.succeeds("run", "--", "true")
        pid = running().pid
        before, used = footprint(pid), memory(pid)
        for _ in range(VIEWS):
            user.succeeds("run", "--", "true")
        assert footprint(pid) == before
        assert memory(pid) - used < GROWTH
        assert running().served == VIEWS + 10
        assert os.listdir(user.runtime) == [".server"]
