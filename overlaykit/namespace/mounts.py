"""The mounts that a view gets from the kernel, /proc, /sys, /dev and /run, and the paths shared with the host.

`prepare_mounts` makes all of them as detached mounts before the root changes: device nodes and shared paths can be
cloned only from outside the view, and an unprivileged process gets a fresh procfs or sysfs only while it sees a whole
one (mount_too_revealing() in fs/namespace.c). `attach_mounts` attaches them afterwards, with the view as root, so that
every path and symbolic link means what it means inside.

The same rule of the kernel holds for user namespaces made inside the view, for nested views or containers. Covered
parts of the view's /proc would refuse them a fresh one, so a whole procfs is mounted where no path leads: on a small
file system below the view's root (`make_root`).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from overlaykit import privilege
from overlaykit.namespace.binds import Bind
from overlaykit.namespace.detached import NODEV, NOEXEC, NOSUID, RDONLY, attach, clone, fresh
from overlaykit.namespace.failure import Step, StepFailed, step
from overlaykit.namespace.spec import LaunchSpec

DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty", "fuse")
LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
MASKED_IN_PROC: Final = ("kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list")
_WRITABLE: Final = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
TTY_GROUP: Final = 5
"""The group of terminals by convention (Documentation/filesystems/devpts.rst)."""


@dataclass(frozen=True, slots=True)
class PreparedMounts:
    """The detached mounts of a view; the function that attaches a mount closes it."""

    proc: int
    whole_proc: int
    sys: int
    cgroup: int | None
    devices: tuple[tuple[str, int], ...]
    pts: int
    mqueue: int | None
    binds: tuple[tuple[Bind, int], ...]


def prepare_mounts(spec: LaunchSpec) -> PreparedMounts:
    """Make every mount of the view, or clone it from the host.

    Requires: the caller is in the view's namespaces, whose procfs it gets, and every mount is private.

    Raises:
      StepFailed: the kernel refuses a mount that a view needs.
    """
    with step(Step.PROC, "/proc"):
        proc, whole_proc = (fresh("proc", NOSUID | NODEV | NOEXEC) for _ in range(2))
    with step(Step.FILE_SYSTEM, "/sys"):
        sys = _sysfs(host_network=spec.network == "host")
    with step(Step.FILE_SYSTEM, "/dev/pts"):
        pts = _devpts()
    return PreparedMounts(
        proc=proc,
        whole_proc=whole_proc,
        sys=sys,
        cgroup=_if_possible("cgroup2", NOSUID | NODEV | NOEXEC | RDONLY),
        devices=_devices(),
        pts=pts,
        mqueue=_if_possible("mqueue", NOSUID | NODEV | NOEXEC),
        binds=tuple((bind, _bind(bind)) for bind in spec.binds),
    )


def attach_mounts(spec: LaunchSpec, prepared: PreparedMounts) -> None:
    """Attach the prepared mounts, except the shared paths, in the view.

    Requires: the root directory of this process is the view's.

    Raises:
      StepFailed: a mountpoint cannot be made, or a call fails.
    """
    attach(prepared.proc, "/proc")
    attach(prepared.sys, "/sys")
    if prepared.cgroup is not None and os.path.isdir("/sys/fs/cgroup"):
        attach(prepared.cgroup, "/sys/fs/cgroup")
    _attach_dev(prepared)
    if _maps_machine_root():
        _protect_proc(network=spec.network != "host")
    with step(Step.FILE_SYSTEM, "/run"):
        run = fresh("tmpfs", NOSUID | NODEV, mode="0755")
    attach(run, "/run")


def attach_binds(prepared: PreparedMounts) -> None:
    """Attach the shared paths in the view, parents before the paths below them.

    Raises:
      StepFailed: as `attach_mounts`; or two targets are one path, by symbolic links.
    """
    taken: dict[str, Bind] = {}
    for bind, mount in sorted(prepared.binds, key=_depth):
        path = os.path.realpath(bind.target)
        if path in taken:
            raise StepFailed(Step.TWICE, errno.EBUSY, f"{taken[path].target}\n{bind.target}")
        taken[path] = bind
        attach(mount, bind.target)


def _depth(bind: tuple[Bind, int]) -> int:
    return os.path.realpath(bind[0].target).count("/")


def _if_possible(fstype: str, attributes: int) -> int | None:
    # A view works without it where the kernel lacks or refuses it.
    with suppress(OSError):
        return fresh(fstype, attributes)
    return None


def _sysfs(*, host_network: bool) -> int:
    try:
        return fresh("sysfs", NOSUID | NODEV | NOEXEC | RDONLY)
    except OSError as error:
        # A sysfs belongs to a network namespace: an unprivileged view gets no fresh one of the host's.
        if error.errno != errno.EPERM or not host_network:
            raise
    return clone("/sys", attributes=RDONLY)


def _devices() -> tuple[tuple[str, int], ...]:
    paths = [(name, f"/dev/{name}") for name in DEVICES]
    # No console where standard input is no terminal, or one of another devpts.
    with suppress(OSError):
        paths.append(("console", os.ttyname(0)))
    found = []
    for name, path in paths:
        with step(Step.FILE_SYSTEM, path), suppress(FileNotFoundError):
            found.append((name, clone(path)))
    return tuple(found)


def _devpts() -> int:
    """A devpts of the view, with the usual group of terminals where this user namespace maps it."""
    options = {"ptmxmode": "0666", "mode": "0620"}
    # EINVAL: it does not.
    with suppress(OSError):
        return fresh("devpts", NOSUID | NOEXEC, **options, gid=str(TTY_GROUP))
    return fresh("devpts", NOSUID | NOEXEC, **options)


def _bind(bind: Bind) -> int:
    with step(Step.BIND_SOURCE, bind.source):
        return clone(bind.source, attributes=RDONLY if bind.read_only else 0)


def _attach_dev(prepared: PreparedMounts) -> None:
    with step(Step.FILE_SYSTEM, "/dev"):
        dev = fresh("tmpfs", NOSUID | NOEXEC, mode="0755")
        shm = fresh("tmpfs", NOSUID | NODEV, mode="1777")
    attach(dev, "/dev")
    for name, target in LINKS:
        with step(Step.FILE_SYSTEM, f"/dev/{name}"):
            os.symlink(target, f"/dev/{name}")
    for name, device in prepared.devices:
        attach(device, f"/dev/{name}")
    attach(prepared.pts, "/dev/pts")
    attach(shm, "/dev/shm")  # noqa: S108
    if prepared.mqueue is not None:
        attach(prepared.mqueue, "/dev/mqueue")


def _maps_machine_root() -> bool:
    """Whether the machine's uid 0, which owns procfs and needs no capability for it, is mapped in this view."""
    return os.stat("/proc/sys").st_uid != privilege.overflow_id("uid")


def _protect_proc(*, network: bool) -> None:
    """Cover the parts of procfs through which the machine's root could read or change the machine.

    The root of an ordinary user's view is that user to the machine. With a private `network`, /proc/sys/net stays
    writable: it shows the network of its reader, and container engines set it.
    """
    own_network = clone("/proc/sys/net") if network and os.path.isdir("/proc/sys/net") else None
    for path in _machine_paths():
        with step(Step.PROC, path), suppress(FileNotFoundError):
            attach(clone(path, attributes=RDONLY), path)
    if own_network is not None:
        attach(own_network, "/proc/sys/net")
    for name in MASKED_IN_PROC:
        target = f"/proc/{name}"
        with step(Step.PROC, target), suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(target).st_mode):
                attach(fresh("tmpfs", NOSUID | NODEV | NOEXEC | RDONLY, mode="0555"), target)
            else:
                attach(clone("/dev/null"), target)


def _machine_paths() -> list[str]:
    """Paths of /proc, except processes, that are writable or may contain a writable file."""
    with os.scandir("/proc") as entries:
        return [
            entry.path
            for entry in entries
            if not entry.name.isdecimal()
            and not entry.is_symlink()
            and (entry.is_dir() or entry.stat().st_mode & _WRITABLE)
        ]
