"""What this room needs of the machine, each thing tried in a child: its part of `overlaykit doctor`."""

from __future__ import annotations

import os

from overlaykit import _native
from overlaykit.health import Check
from overlaykit.namespace import mounts, users
from overlaykit.namespace.failure import ProcRefused

NAMESPACES = (
    ("mount namespaces", _native.CLONE_NEWNS, "CONFIG_NAMESPACES"),
    ("PID namespaces", _native.CLONE_NEWPID, "CONFIG_PID_NS"),
    ("network namespaces", _native.CLONE_NEWNET, "CONFIG_NET_NS"),
    ("UTS namespaces", _native.CLONE_NEWUTS, "CONFIG_UTS_NS"),
    ("IPC namespaces", _native.CLONE_NEWIPC, "CONFIG_IPC_NS"),
    ("cgroup namespaces", _native.CLONE_NEWCGROUP, "CONFIG_CGROUPS"),
)


def checks() -> list[Check]:
    """Try everything that a view's launch needs; nothing is left behind, and nothing of it raises."""
    refused = users.diagnose()
    answers = [
        Check(
            "user namespaces",
            refused is None,
            refused.reason if refused else "an ordinary user can be root of a view",
            refused.fix if refused else "",
        )
    ]
    if refused and not users.is_privileged():  # without one, it can make none of the others
        return answers
    for name, flag, option in NAMESPACES:
        number = users.attempt(flag)
        fix = f"boot a kernel with {option}, or run outside the container that forbids them"
        answers.append(
            Check(
                name, number == 0, os.strerror(number) if number else "work", fix if number else ""
            )
        )
    number = users.errno_of(_mount_proc)
    answers.append(
        Check(
            "a fresh /proc",
            number == 0,
            os.strerror(number) if number else "can be mounted",
            str(ProcRefused()) if number else "",
        )
    )
    answers.append(
        Check(
            "a view's network",
            True,
            "private by default, with published ports and no way out: to resolve names and reach the"
            " outside, run with --network host",
            "",
        )
    )
    return answers


def _mount_proc() -> None:
    users.become(_native.CLONE_NEWNS | _native.CLONE_NEWPID)
    if number := users.errno_of(
        lambda: mounts.fresh("proc", mounts.NOSUID)
    ):  # PID 1 of the new one
        raise OSError(number, os.strerror(number), "/proc")
