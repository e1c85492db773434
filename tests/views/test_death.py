"""The death of any process of a view at any moment: the others end, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess

import pytest

from overlaykit.procfs import descendants
from overlaykit.views.members import init_of

from .fixtures import in_all_variants, with_both_drivers
from .serving import daemon_of, kept_mount
from .user import TestUser

pytestmark = with_both_drivers

COMMAND = ("sh", "-c", "sleep 1000 & setsid sleep 1000 & echo started; wait")

# The launcher becomes the supervisor, which reports no status when it is killed.
STATUS = {"supervisor": -signal.SIGKILL, "daemon": 125, "init": 137}


def roles(launcher: int, name: str) -> dict[str, int]:
    """The processes of a view that runs, by their role."""
    init = init_of(launcher)
    assert init is not None
    daemon = daemon_of(name)
    return {"supervisor": launcher, "init": init} | ({"daemon": daemon} if daemon else {})


@in_all_variants
@pytest.mark.parametrize("victim", STATUS)
@pytest.mark.parametrize("kept", [False, True], ids=["dropped", "kept"])
def test_all_processes_of_a_view_end_and_nothing_is_left_when_one_is_killed(
    user: TestUser, victim: str, kept: bool
) -> None:
    before = user.leftovers()
    options = ("--upper", user.directory("upper")) if kept else ()
    arguments = ("run", "--rm", "--name", "dying", "-p", "0:80", *options, *COMMAND)
    with user.start(*arguments, stderr=subprocess.PIPE) as view:
        assert view.stdout is not None
        assert view.stderr is not None
        assert view.stdout.readline() == "started\n"
        found = roles(view.pid, "dying")
        if (user.driver, victim) == ("kernel", "daemon"):
            assert "daemon" not in found
            victim = "init"
        os.kill(found[victim], signal.SIGKILL)
        status = view.wait()
        errors = view.stderr.read()
        assert status == STATUS[victim], errors
    # A program may have written a part of a line before it was killed.
    ours = [line for line in errors.splitlines() if "overlaykit: " in line]
    # The supervisor is what the caller has started, and sees the end of.
    said = {
        "daemon": "the daemon of view dying ended",
        "init": "the view's init was ended",
        "supervisor": "",
    }
    assert len(ours) == (victim != "supervisor"), errors
    assert not ours or said[victim] in ours[0], errors
    user.wait_for_descendants()
    if (user.driver, victim) == ("kernel", "supervisor"):  # no process is left that cleans up
        user.succeeds("run", "true")
    assert user.leftovers() == before
    if kept:
        user.succeeds("run", "--upper", user.path("upper"), "true")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.one_in(4)
def test_a_signal_for_the_launcher_at_a_random_moment_leaves_nothing(
    user: TestUser, seed: int, number: int
) -> None:
    chance = random.Random(seed)
    user.expects_log = True  # a daemon may log that its parent is gone
    before = user.leftovers()
    with user.start("run", "-p", "0:80", "sleep", "1000", stderr=subprocess.PIPE) as view:
        ended = os.pidfd_open(view.pid)
        while not descendants(view.pid):  # the daemon: before it, Python starts
            assert not select.select([ended], [], [], 0.01)[0]
        select.select([ended], [], [], chance.random() ** 2 * 0.5)
        view.send_signal(number)
        os.close(ended)
        printed = view.communicate()
        before_exec = 128 + number if number == signal.SIGINT else -number
        assert view.returncode in (before_exec, 128 + number)
        assert printed == ("", "")
    assert user.leftovers() == before


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.one_in(4)
def test_a_mount_interrupted_at_a_random_moment_is_complete_or_absent(
    user: TestUser, seed: int
) -> None:
    chance = random.Random(seed)
    lower, target = user.directory("lower"), user.directory("target")
    before = user.leftovers()
    with user.start("mount", "-o", f"lowerdir={lower}", target, stderr=subprocess.PIPE) as mount:
        ended = os.pidfd_open(mount.pid)
        # The daemon: before it, Python starts. It may also be done already.
        while not (descendants(mount.pid) or select.select([ended], [], [], 0.01)[0]):
            pass
        select.select([ended], [], [], chance.uniform(0, 0.5))
        number = chance.choice((signal.SIGINT, signal.SIGTERM))
        mount.send_signal(number)
        os.close(ended)
        printed = mount.communicate()
    if mount.returncode == 0:  # done before the signal
        user.succeeds("umount", target)
    else:
        status = 128 + number if number == signal.SIGINT else -number
        assert (mount.returncode, *printed) == (status, "", "")
    user.wait_for_descendants()
    assert user.leftovers() == before


@in_all_variants
def test_a_launcher_that_is_interrupted_ends_its_view(user: TestUser) -> None:
    with user.start(
        "run", "sh", "-c", "trap 'exit 9' INT; echo started; while :; do sleep 1000 & wait; done"
    ) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "started\n"
        view.send_signal(signal.SIGINT)
        assert view.wait() == 9


@pytest.mark.parametrize("victims", ["keeper", "keeper, then daemon", "daemon, then keeper"])
def test_a_mount_whose_keeper_is_killed_can_be_unmounted(user: TestUser, victims: str) -> None:
    from overlaykit.views import Registry

    user.expects_log = "daemon" in victims
    lower, target = user.directory("lower"), user.directory("target")
    user.succeeds("mount", "-o", f"lowerdir={lower}", target)
    mount = kept_mount(target)
    pids = {"keeper": mount.keeper, "daemon": mount.daemon}
    ended = {role: os.pidfd_open(pid) for role, pid in pids.items()}
    for role in victims.split(", then "):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(ended[role], signal.SIGKILL)
    for pidfd in ended.values():
        select.select([pidfd], [], [])
        os.close(pidfd)
    user.wait_for_descendants()
    assert Registry().running() == []
    user.succeeds("umount", target)
    user.succeeds("run", "true")


def test_a_daemon_unmounts_on_sigterm(user: TestUser) -> None:
    from overlaykit.views import Registry

    lower, target = user.directory("lower"), user.directory("target")
    user.succeeds("mount", "-o", f"lowerdir={lower}", target)
    (mount,) = Registry().running()
    os.kill(mount.about.daemon, signal.SIGTERM)
    user.wait_for_descendants()
