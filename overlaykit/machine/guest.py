"""What a guest finds: its devices, its file systems and its root, as a plan.

The root is the host's, read-only, below an overlay whose upper is on a disk of the guest's own. /tmp and /var/tmp are
on that disk, and on no overlay. The disk is ext4 with quota.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from overlaykit import _native
from overlaykit.machine import inside
from overlaykit.machine.plan import Plan
from overlaykit.record import Record

OUTPUT: Final = "/dev/vport0p1"
STATUS: Final = "/dev/vport0p2"
"""The ports of the first virtio device."""
SHARE_TAG: Final = "host"

NEEDED: Final = (
    *("virtio_pci", "virtio_console", "virtio_blk", "virtiofs", "virtio_rng"),
    *("overlay", "crc32c_generic", "crc32c_intel", "quota_v2"),
)
"""Modules that a guest cannot do without."""
ON_DEMAND: Final = ("fuse", "loop", "btrfs", "xfs", "tun", "veth", "bridge")
"""Modules that a program asks for; the guest has no modprobe."""

_MS_BIND: Final = 4096
_MS_REC: Final = 16384
"""mount(2)"""
_SAFE: Final = _native.MS_NOSUID | _native.MS_NODEV


class Command(Record):
    """What a guest runs."""

    arguments: tuple[str, ...]
    directory: str
    environment: Mapping[str, str]


def report_only(modules: Sequence[str]) -> Plan:
    """A guest that says that it works, and powers off: a trial boot."""
    plan = Plan()
    _load(plan, modules)
    plan.say("exited 0")
    return plan


def with_root_of_the_host(modules: Sequence[str], command: Command) -> Plan:
    """A guest that runs a command with the root of the host, where this interpreter and overlaykit are."""
    plan = Plan()
    _load(plan, modules)
    for path in ("/lower", "/disk", "/merged"):
        plan.directory(path)
    plan.mount("/lower", "virtiofs", SHARE_TAG, _native.MS_RDONLY)
    plan.wait("/dev/vda")
    plan.mount("/disk", "ext4", "/dev/vda", data="usrquota,grpquota")
    for name in ("upper", "work"):
        plan.directory(f"/disk/{name}")
    plan.mount("/merged", "overlay", data="lowerdir=/lower,upperdir=/disk/upper,workdir=/disk/work")
    file_systems(plan, "/merged")
    for path, place in (("/tmp", "/disk/tmp"), ("/var/tmp", "/disk/var-tmp")):  # noqa: S108
        plan.directory(place, 0o1777)
        _keep_what_runs(plan, path, place)
        plan.mount(f"/merged{path}", "none", place, _MS_BIND | _MS_REC)
    plan.root("/merged")
    variables = (f"{name}={value}" for name, value in command.environment.items())
    program = (sys.executable, "-I", "-S", "-B", os.path.abspath(inside.__file__))
    plan.run(
        ("/usr/bin/env", "-i", *variables, *program, OUTPUT, command.directory, *command.arguments)
    )
    return plan


def _keep_what_runs(plan: Plan, path: str, place: str) -> None:
    """Have this interpreter and overlaykit in `place`, which is to cover `path`, if they lie there."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(inside.__file__)))
    for one in (sys.prefix, os.path.dirname(package)):
        if not one.startswith(f"{path}/"):
            continue
        at = place
        for name in one[len(path) + 1 :].split("/"):
            at = f"{at}/{name}"
            plan.directory(at)
        plan.mount(at, "none", f"/merged{one}", _MS_BIND)


def _load(plan: Plan, modules: Sequence[str]) -> None:
    plan.mount("/dev", "devtmpfs")
    for path in modules:
        plan.module(path)
    plan.wait(STATUS)
    plan.status(STATUS)
    plan.wait(OUTPUT)


def file_systems(plan: Plan, root: str) -> None:
    """Mount what a root has besides its files."""
    plan.mount(f"{root}/proc", "proc", flags=_SAFE | _native.MS_NOEXEC)
    plan.mount(f"{root}/sys", "sysfs", flags=_SAFE | _native.MS_NOEXEC)
    plan.mount(f"{root}/sys/fs/cgroup", "cgroup2", flags=_SAFE | _native.MS_NOEXEC)
    plan.mount(f"{root}/dev", "devtmpfs", flags=_native.MS_NOSUID)
    plan.directory(f"{root}/dev/pts")
    plan.mount(
        f"{root}/dev/pts", "devpts", flags=_native.MS_NOSUID, data="ptmxmode=0666,mode=0620,gid=5"
    )
    plan.directory(f"{root}/dev/shm", 0o1777)  # noqa: S108  # in the guest
    plan.mount(f"{root}/dev/shm", "tmpfs", flags=_SAFE, data="mode=1777")  # noqa: S108
    plan.mount(f"{root}/run", "tmpfs", flags=_SAFE, data="mode=755")
