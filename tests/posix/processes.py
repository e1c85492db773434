"""Helpers of the behaviours that run in another process or as another user."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence

ALICE = 4001
BOB = 4002
"""Two uids and gids that own no file of the machine."""


def run_in_child(action: Callable[[], object]) -> None:
    """Run `action` in a child process; its failure fails the test."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receive)
        try:
            action()
        except BaseException:
            os.write(send, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(0)
    os.close(send)
    with open(receive, "rb") as pipe:
        failure = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert not failure, f"in a child process: {failure.decode()}"
    assert status == 0, f"child process ended with status {status}"


def run_as_user(uid: int, action: Callable[[], object], *, groups: Sequence[int] = ()) -> None:
    """Run `action` in a child process with that uid and gid and no capabilities."""

    def act() -> None:
        os.setgroups(groups)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        action()

    run_in_child(act)
