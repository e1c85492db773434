"""A thousand views in a loop: the fork server does not grow, nothing is left, and no trouble with it stops a view."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
from collections.abc import Callable

from overlaykit import View
from overlaykit.procfs import children

from ...views.fixtures import in_all_variants, only_with
from ...views.serving import (
    directory,
    footprint,
    memory,
    running,
    start_loaded,
    switched_on,
    wait_for_end,
)
from ...views.user import ORDINARY, TestUser, command_line

VIEWS = 1000

TROUBLES = 200

GROWTH = 512
"""KiB: a few pages that are written for the first time."""


def test_a_thousand_views_leave_nothing_and_the_server_as_it_was(user: TestUser) -> None:
    user.set_deadline(3600)
    with switched_on():
        pid = start_loaded(user)
        for _ in range(10):
            user.succeeds("run", "--", "true")
        before, used, served = footprint(pid), memory(pid), running().served
        for _ in range(VIEWS):
            user.succeeds("run", "--", "true")
        assert footprint(pid) == before
        assert memory(pid) - used < GROWTH
        assert running().served == served + VIEWS
        assert os.listdir(user.runtime) == [".server"]


@in_all_variants
@only_with(driver="kernel", server=False)
def test_a_thousand_views_of_the_kernels_overlayfs_leave_nothing(user: TestUser) -> None:
    user.set_deadline(3600)
    before = user.leftovers()
    for _ in range(VIEWS):
        user.succeeds("run", "--", "true")
    assert user.leftovers() == before


class Trouble:
    """What may happen to the server of a user, and to its socket."""

    def __init__(self, user: TestUser) -> None:
        self._user = user
        self._listeners: list[socket.socket] = []
        self.kinds: list[Callable[[], None]] = [
            self.kill,
            self.stop,
            self.resume,
            self.replace_by_silent_socket,
            self.replace_by_socket_of_another_user,
            self.remove_socket,
        ]

    def servers(self) -> list[int]:
        """The user's servers, also those that do not listen any more: orphans of this subreaper.

        The daemons of a server that was killed are orphans too, but lead a session each.
        """
        return [
            one
            for one in children(os.getpid())
            if "server_main" in command_line(one) and os.getsid(one) != one
        ]

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def stop(self) -> None:
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def replace_by_silent_socket(self) -> None:
        """A socket of the user's own that nothing answers."""
        self._listen(os.getuid())

    def replace_by_socket_of_another_user(self) -> None:
        """As an ordinary user, who can make none: a symlink to a directory of root's."""
        if self._user.is_root:
            self._listen(ORDINARY)
        else:
            self.remove_socket()
            with contextlib.suppress(OSError):
                os.symlink("/usr", os.path.join(directory(), "socket"))

    def remove_socket(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(directory(), "socket"))

    def end(self) -> None:
        """End all servers, as a user would who wants no trouble."""
        for listener in self._listeners:
            listener.close()
        for server in self.servers():
            os.kill(server, signal.SIGKILL)
            wait_for_end(server)

    def _send(self, number: int) -> None:
        for server in self.servers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, number)

    def _listen(self, owner: int) -> None:
        self.remove_socket()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listeners.append(listener)
        path = os.path.join(directory(), "socket")
        with contextlib.suppress(OSError):  # there is no directory of a server
            listener.bind(path)
            os.chown(path, owner, owner)
            own = os.geteuid()
            os.seteuid(owner)  # SO_PEERCRED names who calls listen(2) (unix(7))
            try:
                listener.listen()
            finally:
                os.seteuid(own)


def test_trouble_with_the_server_at_random_moments_stops_no_view(user: TestUser) -> None:
    """Views that run go on, and new ones start, with the server or without."""
    user.set_deadline(3600)
    user.expects_log = True  # a daemon may log that its parent is gone
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    trouble = Trouble(user)
    done: list[str] = []
    try:
        with switched_on():
            with View(upper=user.directory("upper")) as lasting:
                for number in range(TROUBLES):
                    _run_with_trouble(user, chance, trouble, done)
                    if number % 20 == 0:
                        lasting.run(["sh", "-c", f"echo {number} >>/numbers"], check=True)
            trouble.end()
            user.succeeds("run", "--", "true")
            assert running().served == 1
        user.wait_for_descendants()
    except BaseException as error:
        error.add_note(f"seed {seed}, after {done}")
        raise
    with open(user.path("upper", "numbers")) as numbers:
        assert numbers.read().split() == [str(number) for number in range(0, TROUBLES, 20)]


def _run_with_trouble(
    user: TestUser, chance: random.Random, trouble: Trouble, done: list[str]
) -> None:
    """Run a view, and make trouble while it starts, or not."""
    with user.start("run", "--", "echo", "x", stderr=subprocess.PIPE) as view:
        ended = os.pidfd_open(view.pid)
        select.select([ended], [], [], chance.uniform(0, 0.1))  # most moments fall into the start
        os.close(ended)
        if chance.random() < 0.5:
            make = chance.choice(trouble.kinds)
            done.append(make.__name__)
            make()
        printed = view.communicate()
        assert (view.returncode, *printed) == (0, "x\n", "")
