"""`overlaykit mount` goes on when its daemon is killed, and leaves nothing when it ends."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from overlaykit.views import Registry

from ..fuse.restarts import end_daemon
from ..views.serving import kept_mount
from ..views.user import TestUser


def shown(user: TestUser) -> dict[str, Any]:
    """What `ps` shows of the only mount."""
    (mount,) = json.loads(user.succeeds("ps", "--json"))
    assert isinstance(mount, dict)
    return mount


def test_a_daemon_that_is_killed_by_the_pid_that_is_shown_is_replaced(user: TestUser) -> None:
    user.expects_log = True
    lower = user.directory("lower", file="content")
    upper, work, target = map(user.directory, ("upper", "work", "target"))
    before = user.leftovers()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    user.succeeds("mount", "--name", "m", "-o", options, target)
    assert Registry().find(target).about.keeper  # whose daemon serves as soon as the command ends
    pids = []
    with open(os.path.join(target, "file")) as file:
        for number in range(3):
            kept_mount(target)
            mount = shown(user)
            assert mount["pid"] == mount["daemon"] != mount["keeper"]
            assert str(mount["daemon"]) in user.succeeds("ps").splitlines()[1].split()
            pids.append((mount["keeper"], mount["daemon"]))
            end_daemon(mount["daemon"], signal.SIGKILL)
            file.seek(0)
            assert file.read() == "content"
            user.write(os.path.join(target, f"new{number}"), "new")
            assert os.path.join(upper, f"new{number}") in user.succeeds(
                "explain", "m", f"/new{number}"
            )
            assert "getattr" in user.succeeds("stats", "--requests", "m").lower()
    assert len({keeper for keeper, _ in pids}) == 1
    assert len({daemon for _, daemon in pids}) == 3
    user.succeeds("umount", target)
    user.wait_for_descendants()
    assert user.leftovers() == before
    assert sorted(os.listdir(upper)) == ["new0", "new1", "new2"]


@pytest.mark.parametrize("options", [("--no-restart",), ("-o", "restart=off")])
def test_a_mount_may_do_without_a_keeper(user: TestUser, options: tuple[str, ...]) -> None:
    lower, target = user.directory("lower"), user.directory("target")
    user.succeeds("mount", "-o", f"lowerdir={lower}", *options, target)
    mount = shown(user)
    assert mount["keeper"] == 0
    end_daemon(mount["daemon"], signal.SIGKILL)
    user.wait_for_descendants()
    assert json.loads(user.succeeds("ps", "--json")) == []
    user.succeeds("umount", target)
    user.succeeds("run", "true")  # removes the record


def test_a_mount_is_ended_by_force_also_if_its_keeper_is_stopped(user: TestUser) -> None:
    lower, target = user.directory("lower"), user.directory("target")
    user.succeeds("mount", "-o", f"lowerdir={lower}", target)
    for process in kept_mount(target).daemons:
        os.kill(process, signal.SIGSTOP)
    user.succeeds("umount", "--force", target)
    user.wait_for_descendants()
