"""`overlaykit server`: the status of the fork server, and its end."""

from __future__ import annotations

import json
import os

import pytest

from ..views.serving import running, switched_on, view, wait_for_end
from ..views.user import TestUser


def test_status_and_stop_without_a_server_say_so(user: TestUser) -> None:
    assert user.succeeds("server", "status") == "not running\n"
    assert user.succeeds("server", "status", "--json") == "null\n"
    assert user.succeeds("server", "stop") == "not running\n"


def test_the_status_names_the_process_and_counts_daemons(user: TestUser) -> None:
    with switched_on():
        user.succeeds("run", "--", "true")
        await_daemons(user, 0)
        with view(user, "one"):
            found = running()
            status = json.loads(user.succeeds("server", "status", "--json"))
            assert (status["pid"], status["served"], status["alive"]) == (found.pid, 2, 1)
            assert status["memory"] > 1 << 20
            shown = user.succeeds("server", "status")
        assert f"process {found.pid}" in shown
        assert "2 started, 1 alive" in shown


def await_daemons(user: TestUser, number: int) -> None:
    """Poll until the server has so many daemons: one ends a moment after its view."""
    while json.loads(user.succeeds("server", "status", "--json"))["alive"] != number:
        pass


def test_stop_ends_the_server_and_no_view(user: TestUser) -> None:
    with switched_on():
        user.succeeds("run", "--", "true")
        first = running().pid
        await_daemons(user, 0)
        assert user.succeeds("server", "stop") == f"stopped: process {first}\n"
        assert not os.path.exists(f"/proc/{first}/fd/0")
        with view(user, "one"):
            second = running().pid
            stopped = user.succeeds("server", "stop")
            assert (
                stopped == f"stopped: process {second} ends with the last of its daemons, 1 now\n"
            )
            assert user.succeeds("server", "status") == "not running\n"
            user.succeeds("run", "--", "true")
            assert running().pid != second
        wait_for_end(second)


@pytest.mark.parametrize("setting", ["on", "-1", "nan", "inf"])
def test_a_setting_that_means_nothing_is_refused_with_those_that_do(
    user: TestUser, setting: str
) -> None:
    line = user.refused("run", "--", "true", env={**os.environ, "OVERLAYKIT_SERVER": setting})
    assert line == (
        f"OVERLAYKIT_SERVER={setting}: give 'off', or the seconds for which the server stays without "
        "a view"
    )
