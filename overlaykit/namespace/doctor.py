"""The part of `overlaykit doctor` about launches: what they need is tried in child processes."""

from __future__ import annotations

import os

from overlaykit import _native
from overlaykit.health import Check
from overlaykit.namespace import diagnosis, outbound, users
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
    """Try what a launch needs of the machine. Leaves nothing behind and does not raise."""
    refused = diagnosis.diagnose()
    found = [
        Check(
            "user namespaces",
            refused is None,
            refused.reason if refused else "an ordinary user can be root of a view",
            refused.fix if refused else "",
        )
    ]
    # Without a user namespace, an ordinary user can make none of the others.
    if refused and not users.is_privileged():
        return found
    for name, flag, option in NAMESPACES:
        number = diagnosis.attempt(flag)
        fix = f"boot a kernel with {option}, or run outside the container that forbids them"
        found.append(
            Check(
                name, number == 0, os.strerror(number) if number else "work", fix if number else ""
            )
        )
    number = users.errno_of(_mount_proc)
    found.append(
        Check(
            "a fresh /proc",
            number == 0,
            os.strerror(number) if number else "can be mounted",
            str(ProcRefused()) if number else "",
        )
    )
    found.append(
        Check(
            "a view's network",
            True,
            "its own by default, with published ports, and connections outward where the next line says so;"
            " --network host shares the host's",
            "",
        )
    )
    found.append(Check("--network outbound", True, _outbound(), ""))  # views work without
    return found


def _outbound() -> str:
    try:
        outbound.program()
    except (outbound.NoOutboundProgram, outbound.TunRefused) as error:
        return str(error).partition(": ")[2]
    return f"works through {' or '.join(outbound.installed())}"


def _mount_proc() -> None:
    users.become(_native.CLONE_NEWNS | _native.CLONE_NEWPID)
    # The child is PID 1 of the new PID namespace, whose procfs it mounts.
    if number := users.errno_of(_fresh_proc):
        raise OSError(number, os.strerror(number), "/proc")


def _fresh_proc() -> None:
    context = _native.fsopen("proc", _native.FSOPEN_CLOEXEC)
    _native.fsconfig(context, _native.FSCONFIG_SET_STRING, "source", "proc")
    _native.fsconfig(context, _native.FSCONFIG_CMD_CREATE, None, None)
    _native.fsmount(context, _native.FSMOUNT_CLOEXEC, _native.MOUNT_ATTR_NOSUID)
