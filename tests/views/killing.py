"""Kill one process of a view at a random moment, and check what is said and what is left."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
from typing import Final

from overlaykit.namespace.launcher import SUPERVISOR
from overlaykit.procfs import children, descendants
from overlaykit.views.members import init_of, is_helper

from ..patience import patience
from .test_death import COMMAND
from .user import PATH, TestUser, command, command_line

_LONGEST_WAIT_SECONDS: Final = 0.8
"""Most moments fall into the start."""

_HELPERS_ARE_MISSED_SECONDS: Final = patience(15)
"""A view that goes on for longer does not need the process that was killed: another one is killed, too."""

COMMAND_ITSELF: Final = "the command"

_LASTING: Final = ("processes", "mounts", "descriptors")
"""What no later view removes."""


def kill_one_of_an_attached_view(user: TestUser, chance: random.Random) -> None:
    """Kill any process of a view with a published port, at any moment from the start of its launcher on."""
    user.expects_log = True  # a daemon may log that its parent is gone
    before = user.leftovers()
    with user.start("run", "-p", "0:80", *COMMAND, stderr=subprocess.PIPE) as view:
        ended = os.pidfd_open(view.pid)
        select.select([ended], [], [], chance.uniform(0, _LONGEST_WAIT_SECONDS))
        victim, what = _kill_any_of(view.pid, user.server(), chance)
        # The launcher misses neither a child that has just done its work, nor a daemon that came late.
        while not (victim == view.pid or what.startswith(SUPERVISOR) or what == COMMAND_ITSELF):
            if select.select([ended], [], [], _HELPERS_ARE_MISSED_SECONDS)[0]:
                break
            victim, what = _kill_any_of(view.pid, user.server(), chance)
        os.close(ended)
        _, errors = view.communicate()
        said = [line for line in errors.splitlines() if "overlaykit: " in line]
        if victim == view.pid:
            # Its caller sees that, and the rest has no one to tell.
            assert view.returncode == -signal.SIGKILL
        else:
            assert view.returncode in (125, 137), (what, errors)
            # The end of the command by itself is its status alone.
            assert len(said) == (what != COMMAND_ITSELF), (what, view.returncode, errors)
    check_nothing_is_left(user, before)


def _kill_any_of(launcher: int, server: int | None, chance: random.Random) -> tuple[int, str]:
    """Kill any process of a view that starts. Returns: its process id, and what it was."""
    while True:
        # The processes of a start come and go: one that has ended is not killed.
        victim = chance.choice(_essential_processes(launcher, server))
        what = "the launcher" if victim == launcher else command_line(victim)
        # Also before it has executed a program of its own.
        if any(victim in children(one) for one in children(launcher)):
            what = COMMAND_ITSELF
        with contextlib.suppress(ProcessLookupError):
            if what:  # a zombie has no command line
                os.kill(victim, signal.SIGKILL)
                return victim, what


def _essential_processes(launcher: int, server: int | None) -> list[int]:
    """Every process of a view but those that the daemon and the command started."""

    def is_ours(process: int) -> bool:
        return process == launcher or command_line(process).startswith(SUPERVISOR)

    daemons = [] if server is None else children(server)
    found = [launcher, *descendants(launcher, through=is_ours), *daemons]
    return [one for one in found if _is_missed(one)]


def _is_missed(process: int) -> bool:
    """Whether a view ends with this process: not with the helper of its network."""
    try:
        return not is_helper(process)
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill_one_of_a_detached_view(user: TestUser, chance: random.Random) -> None:
    """Kill a process of a named view that runs without its caller. Its log says what has died."""
    user.expects_log = True
    before = user.leftovers()
    name = f"killed-{os.urandom(3).hex()}"
    user.succeeds("run", "-d", "--name", name, "-p", "0:80", *COMMAND)
    (found,) = (one for one in json.loads(user.succeeds("ps", "--json")) if one["name"] == name)
    supervisor = found["supervisor"]
    init = init_of(supervisor)
    assert init is not None
    roles = {"supervisor": supervisor, "init": init}
    if found["daemon"]:
        roles["daemon"] = found["daemon"]
    role = chance.choice(sorted(roles))
    ended = os.pidfd_open(supervisor)
    select.select([ended], [], [], chance.uniform(0, _LONGEST_WAIT_SECONDS / 4))
    os.kill(roles[role], signal.SIGKILL)
    select.select([ended], [], [])
    os.close(ended)
    user.wait_for_descendants()
    said = user.overlaykit("logs", name).stderr
    if role == "supervisor":
        # No process is left that could say it.
        assert user.refused("wait", name).startswith(f"{name}: how it ended is not known")
    else:
        assert {"daemon": "the daemon of view", "init": "the view's init"}[role] in said
        assert user.succeeds("wait", name) == "137\n"
    user.succeeds("rm", name)
    check_nothing_is_left(user, before)


def kill_the_helper_of_a_view(user: TestUser, chance: random.Random) -> None:
    """Kill what connects a detached view outward. Its log says so, and the view goes on."""
    programs, name = user.directory("programs"), f"killed-{os.urandom(3).hex()}"
    program = shutil.which("slirp4netns")
    assert program
    os.symlink(program, os.path.join(programs, "slirp4netns"))
    before = user.leftovers()
    path = f"{programs}:{os.path.dirname(command())}"
    outbound = ("run", "-d", "--name", name, "--network", "outbound", "-e", f"PATH={PATH}")
    user.succeeds(*outbound, *COMMAND, env=os.environ | {"PATH": path})
    (found,) = (one for one in json.loads(user.succeeds("ps", "--json")) if one["name"] == name)
    (helper,) = filter(is_helper, children(found["supervisor"]))
    (connecting,) = children(helper)
    assert command_line(connecting).startswith(f"{programs}/"), command_line(connecting)
    select.select([], [], [], chance.uniform(0, _LONGEST_WAIT_SECONDS / 4))
    os.kill(chance.choice((helper, connecting)), signal.SIGKILL)
    while not (said := user.overlaykit("logs", name).stderr):
        pass
    assert said.endswith("reaches nothing outside any more: its network program has ended\n")
    user.succeeds("exec", name, "true")
    user.succeeds("stop", name)
    user.succeeds("rm", name)
    check_nothing_is_left(user, before)


def check_nothing_is_left(user: TestUser, before: dict[str, object]) -> None:
    """Check that all processes have ended, and that the next view removes the files that are left."""
    user.wait_for_descendants()
    now = user.leftovers()
    assert {what: now[what] for what in _LASTING} == {what: before[what] for what in _LASTING}
    user.succeeds("run", "true")
    assert user.leftovers() == before
