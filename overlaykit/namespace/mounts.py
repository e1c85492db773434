"""The mounts that a view gets from the kernel, /proc, /sys, /dev and /run, and the paths shared with the host.

`prepare_mounts` makes all of them as detached mounts before the root changes: device nodes and shared paths can be
cloned only from outside the view, and an unprivileged process gets a fresh procfs or sysfs only while it sees a whole
one (mount_too_revealing() in fs/namespace.c). `attach` mounts them afterwards, with the view as root, so that every
path and symbolic link means what it means inside.

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

from overlaykit import _native, privilege
from overlaykit.namespace.binds import Bind
from overlaykit.namespace.failure import Step, StepFailed, step
from overlaykit.namespace.spec import LaunchSpec

NOSUID: Final = _native.MOUNT_ATTR_NOSUID
NODEV: Final = _native.MOUNT_ATTR_NODEV
NOEXEC: Final = _native.MOUNT_ATTR_NOEXEC
RDONLY: Final = _native.MOUNT_ATTR_RDONLY

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
"""The group of terminals by the convention of every distribution (devpts(5) of the kernel's documentation)."""


@dataclass(frozen=True, slots=True)
class PreparedMounts:
    """Detached mounts on their way into a view; what attaches one also closes it."""

    proc: int
    whole_proc: int
    sys: int
    cgroup: int | None
    devices: tuple[tuple[str, int], ...]
    pts: int
    mqueue: int | None
    binds: tuple[tuple[Bind, int], ...]


def prepare_mounts(spec: LaunchSpec) -> PreparedMounts:
    """Make, or clone from the host, every mount that goes into the view.

    To be called in the view's own namespaces (procfs shows those of the calling process), with every mount private.

    Raises:
      StepFailed: the kernel refuses one that a view cannot do without.
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


def attach(spec: LaunchSpec, prepared: PreparedMounts) -> None:
    """Put the prepared mounts into the root directory of this process, which is the view's.

    Raises:
      StepFailed: a mountpoint is missing and cannot be made, or the kernel refuses.
    """
    attach_at(prepared.proc, "/proc")
    attach_at(prepared.sys, "/sys")
    if prepared.cgroup is not None and os.path.isdir("/sys/fs/cgroup"):
        attach_at(prepared.cgroup, "/sys/fs/cgroup")
    _attach_dev(prepared)
    if _knows_the_machines_root():
        _protect_proc(network=spec.network != "host")
    with step(Step.FILE_SYSTEM, "/run"):
        run = fresh("tmpfs", NOSUID | NODEV, mode="0755")
    attach_at(run, "/run")


def attach_binds(prepared: PreparedMounts) -> None:
    """Put the shared paths into the root directory, those that others lie below first.

    Raises:
      StepFailed: as `attach`; two of them are at one place, by symbolic links.
    """
    taken: dict[str, Bind] = {}
    for bind, mount in sorted(prepared.binds, key=_depth):
        place = os.path.realpath(bind.target)
        if place in taken:
            raise StepFailed(Step.TWICE, errno.EBUSY, f"{taken[place].target}\n{bind.target}")
        taken[place] = bind
        attach_at(mount, bind.target)


def _depth(bind: tuple[Bind, int]) -> int:
    return os.path.realpath(bind[0].target).count("/")


def fresh(fstype: str, attributes: int, **options: str) -> int:
    """A detached mount of a fresh file system, with MOUNT_ATTR_* `attributes` and the file system's own options.

    Raises:
      OSError: as fsopen(2), fsconfig(2) and fsmount(2) fail.
    """
    context = _native.fsopen(fstype, _native.FSOPEN_CLOEXEC)
    try:
        for key, value in {"source": fstype, **options}.items():
            _native.fsconfig(context, _native.FSCONFIG_SET_STRING, key, value)
        _native.fsconfig(context, _native.FSCONFIG_CMD_CREATE, None, None)
        return _native.fsmount(context, _native.FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def make_root(mount: int, whole_proc: int) -> None:
    """Let the detached `mount` be the root directory, and drop everything that was there.

    Below it lies a file system that no path leads to, with a whole procfs for mount_too_revealing() to find. The view's
    root covers that one's root, so the kernel takes no process of the view for one in a chroot(2), which could make
    no user namespace (current_chrooted() in fs/namespace.c).

    Raises:
      OSError: EINVAL when the present root is the initial ramfs, which cannot be exchanged.
    """
    below = fresh("tmpfs", NOSUID | NODEV | NOEXEC, mode="0500")
    _exchange_root(below)
    os.mkdir("/proc", 0o500)
    _native.move_mount(whole_proc, "", _native.AT_FDCWD, "/proc", _native.MOVE_MOUNT_F_EMPTY_PATH)
    _native.mount_setattr(below, "", _native.AT_EMPTY_PATH, attr_set=RDONLY)
    _cover_root(mount)
    os.chroot(".")
    for done in (below, whole_proc):
        os.close(done)


def _exchange_root(mount: int) -> None:
    """pivot_root(2), NOTES: new and old root may share one mountpoint, so none has to be found or made for either."""
    _cover_root(mount)
    _native.pivot_root(".", ".")
    _native.umount2(".", _native.MNT_DETACH)
    os.chdir("/")


def _cover_root(mount: int) -> None:
    """Attach a mount, private, on top of the root directory; it becomes the working directory."""
    _native.mount_setattr(
        mount,
        "",
        _native.AT_EMPTY_PATH | _native.AT_RECURSIVE,
        propagation=_native.MS_PRIVATE,
    )
    _native.move_mount(mount, "", _native.AT_FDCWD, "/", _native.MOVE_MOUNT_F_EMPTY_PATH)
    os.fchdir(mount)


def _if_possible(fstype: str, attributes: int) -> int | None:
    with suppress(OSError):  # not built into this kernel, or not allowed here: a view does without
        return fresh(fstype, attributes)
    return None


def clone(path: str, *, attributes: int = 0) -> int:
    """A detached copy of what is mounted at `path`, with everything below it.

    Recursive always: a clone without what is mounted below would reveal what that covers, which an unprivileged
    process is refused (has_locked_children() in fs/namespace.c).
    """
    mount = _native.open_tree(
        _native.AT_FDCWD,
        path,
        _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC | _native.AT_RECURSIVE,
    )
    if attributes:
        _native.mount_setattr(
            mount, "", _native.AT_EMPTY_PATH | _native.AT_RECURSIVE, attr_set=attributes
        )
    return mount


def _sysfs(*, host_network: bool) -> int:
    try:
        return fresh("sysfs", NOSUID | NODEV | NOEXEC | RDONLY)
    except OSError as error:
        # sysfs belongs to a network namespace: an unprivileged view gets no fresh one of the host's.
        if error.errno != errno.EPERM or not host_network:
            raise
    return clone("/sys", attributes=RDONLY)


def _devices() -> tuple[tuple[str, int], ...]:
    paths = [(name, f"/dev/{name}") for name in DEVICES]
    with suppress(
        OSError
    ):  # standard input is no terminal, or one of another devpts: no console then
        paths.append(("console", os.ttyname(0)))
    found = []
    for name, path in paths:
        with step(Step.FILE_SYSTEM, path), suppress(FileNotFoundError):
            found.append((name, clone(path)))
    return tuple(found)


def _devpts() -> int:
    """Terminals of the view's own, of their usual group where this user namespace knows that one."""
    options = {"ptmxmode": "0666", "mode": "0620"}
    with suppress(OSError):  # EINVAL: it does not
        return fresh("devpts", NOSUID | NOEXEC, **options, gid=str(TTY_GROUP))
    return fresh("devpts", NOSUID | NOEXEC, **options)


def _bind(bind: Bind) -> int:
    with step(Step.BIND_SOURCE, bind.source):
        return clone(bind.source, attributes=RDONLY if bind.read_only else 0)


def _attach_dev(prepared: PreparedMounts) -> None:
    with step(Step.FILE_SYSTEM, "/dev"):
        dev = fresh("tmpfs", NOSUID | NOEXEC, mode="0755")
        shm = fresh("tmpfs", NOSUID | NODEV, mode="1777")
    attach_at(dev, "/dev")
    for name, target in LINKS:
        with step(Step.FILE_SYSTEM, f"/dev/{name}"):
            os.symlink(target, f"/dev/{name}")
    for name, device in prepared.devices:
        attach_at(device, f"/dev/{name}")
    attach_at(prepared.pts, "/dev/pts")
    attach_at(shm, "/dev/shm")  # noqa: S108
    if prepared.mqueue is not None:
        attach_at(prepared.mqueue, "/dev/mqueue")


def _knows_the_machines_root() -> bool:
    """Whether the machine's own uid 0 is a user of this view: procfs belongs to it, and lets it in by that alone."""
    return os.stat("/proc/sys").st_uid != privilege.overflow_id("uid")


def _protect_proc(*, network: bool) -> None:
    """Cover what would let the machine's own root change or read the machine through procfs.

    The root of an ordinary user's view needs none of it: to the machine it is that user. With a `network` of the view's
    own, /proc/sys/net stays writable: it shows the network of its reader, and container engines set that.
    """
    own_network = clone("/proc/sys/net") if network and os.path.isdir("/proc/sys/net") else None
    for path in _of_the_machine():
        with step(Step.PROC, path), suppress(FileNotFoundError):
            attach_at(clone(path, attributes=RDONLY), path)
    if own_network is not None:
        attach_at(own_network, "/proc/sys/net")
    for name in MASKED_IN_PROC:
        target = f"/proc/{name}"
        with step(Step.PROC, target), suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(target).st_mode):
                attach_at(fresh("tmpfs", NOSUID | NODEV | NOEXEC | RDONLY, mode="0555"), target)
            else:
                attach_at(clone("/dev/null"), target)


def _of_the_machine() -> list[str]:
    """What /proc has besides processes that may be written to, or may hold what can."""
    with os.scandir("/proc") as entries:
        return [
            entry.path
            for entry in entries
            if not entry.name.isdecimal()
            and not entry.is_symlink()
            and (entry.is_dir() or entry.stat().st_mode & _WRITABLE)
        ]


def attach_at(mount: int, target: str) -> None:
    """Attach a detached mount, and close it; the mountpoint is made when missing.

    Raises:
      StepFailed: it cannot be made, or the kernel refuses.
    """
    is_directory = stat.S_ISDIR(os.fstat(mount).st_mode)
    with step(Step.MOUNTPOINT, target):
        place = _mountpoint(target, is_directory=is_directory)
    if os.path.isdir(place) != is_directory:
        raise StepFailed(Step.MISMATCH, errno.ENOTDIR if is_directory else errno.EISDIR, target)
    with step(Step.ATTACH, target):
        _native.move_mount(mount, "", _native.AT_FDCWD, place, _native.MOVE_MOUNT_F_EMPTY_PATH)
    os.close(mount)


def _mountpoint(target: str, *, is_directory: bool) -> str:
    """The real path of `target`, made when missing (move_mount(2) follows no symbolic link at the end)."""
    place = os.path.realpath(target)
    if not os.path.lexists(place):
        os.makedirs(place if is_directory else os.path.dirname(place), exist_ok=True)
        if not is_directory:
            os.close(os.open(place, os.O_CREAT | os.O_CLOEXEC, 0o644))
    return place
