"""Control groups of a view: one in each hierarchy that has a controller for its limits.

On a machine with version 2 alone that is one directory; where controllers are mounted as version 1, one for each. The
directory is made beside the caller's own group in version 2, whose groups have either processes or children with
controllers, and below it in version 1. init joins it, so that the supervisor and the daemon stay outside.

The maker holds a lock (flock(2)) on each directory. One without a lock was left by a killed view; the next one that is
made removes it.

Source: cgroups(7), Documentation/admin-guide/cgroup-v2.rst, Documentation/admin-guide/cgroup-v1.
"""

from __future__ import annotations

import errno
import fcntl
import os

from overlaykit import mountinfo
from overlaykit.errors import Error
from overlaykit.namespace.limits import UNLIMITED
from overlaykit.record import Record
from overlaykit.scope import ExitStack, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from overlaykit.mountinfo import Mount
    from overlaykit.namespace.limits import Limits

_PREFIX: Final = "overlaykit-"
_PERIOD_MICROSECONDS: Final = 100_000
_PROCESSES: Final = "cgroup.procs"
_ENABLED: Final = "cgroup.subtree_control"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class LimitUnavailable(Error):
    message = "{0}: the controller {1} cannot be used here ({2}): {3}"


class Cgroups(Record, kw_only=True):
    """The control groups of a view. The descriptors belong to the caller of `make`."""

    paths: tuple[str, ...]
    directories: tuple[tuple[int, str], ...]
    """Descriptors of the parent directories, and the names in them."""
    locks: tuple[int, ...]
    joins: tuple[int, ...]
    """Descriptors of cgroup.procs, which a process joins by writing "0"."""
    out_of_memory: int | None
    """A descriptor of the file that counts the processes killed for memory ("oom_kill N")."""


def opened(paths: Sequence[str], undo: ExitStack) -> Cgroups:
    """The groups of a view that runs, to be joined. `undo` closes the descriptors. Raises: OSError."""
    joins = []
    for path in paths:
        joins.append(os.open(os.path.join(path, _PROCESSES), os.O_WRONLY | os.O_CLOEXEC))
        undo.callback(os.close, joins[-1])
    return Cgroups(
        paths=tuple(paths), directories=(), locks=(), joins=tuple(joins), out_of_memory=None
    )


class _Setting(Record):
    """A file of a controller, and what is written into it. `option`: for messages."""

    option: str
    controller: str
    file: str
    value: str
    optional: bool = False
    """Whether the kernel may lack the file."""
    instead: str | None = None
    """Another file of the controller, without which the kernel may not lack this one."""


class _Hierarchy(Record, kw_only=True):
    """A mounted hierarchy. `own`: the directory of the caller's group; `root`: that of the mount."""

    unified: bool
    root: str
    own: str
    controllers: frozenset[str]

    @property
    def parent(self) -> str:
        """The directory in which groups are made."""
        return os.path.dirname(self.own) if self.unified and self.own != self.root else self.own


def make(limits: Limits, name: str, undo: ExitStack) -> Cgroups:
    """Make the groups of the view `name` and set its limits. `undo` closes the descriptors and removes the groups.

    Raises: LimitUnavailable, OSError.
    """
    hierarchies = list(_hierarchies())
    found: dict[str, tuple[_Hierarchy, list[_Setting]]] = {}
    for unified in (True, False):
        for setting in _settings(limits, unified=unified):
            for hierarchy in hierarchies:
                if hierarchy.unified == unified and setting.controller in hierarchy.controllers:
                    found.setdefault(hierarchy.own, (hierarchy, []))[1].append(setting)
    _require_all(limits, found)
    paths, directories, locks, joins = [], [], [], []
    out_of_memory: int | None = None
    for hierarchy, settings in found.values():
        _remove_abandoned(hierarchy.parent)
        if hierarchy.unified:
            _enable(hierarchy, settings)
        path, lock = _make_directory(hierarchy, name, settings[0], undo)
        paths.append(path)
        locks.append(lock)
        directory = os.open(hierarchy.parent, _DIRECTORY)
        undo.callback(os.close, directory)
        directories.append((directory, os.path.basename(path)))
        if not hierarchy.unified and any(one.controller == "cpuset" for one in settings):
            _inherit_cpuset(hierarchy.parent, path)
        for setting in settings:
            _write(path, setting)
        joins.append(os.open(os.path.join(path, _PROCESSES), os.O_WRONLY | os.O_CLOEXEC))
        undo.callback(os.close, joins[-1])
        if limits.memory is not None and any(one.controller == "memory" for one in settings):
            file = "memory.events" if hierarchy.unified else "memory.oom_control"
            out_of_memory = os.open(os.path.join(path, file), os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, out_of_memory)
    return Cgroups(
        paths=tuple(paths),
        directories=tuple(directories),
        locks=tuple(locks),
        joins=tuple(joins),
        out_of_memory=out_of_memory,
    )


def _settings(limits: Limits, *, unified: bool) -> Iterator[_Setting]:
    if limits.memory is not None:
        yield from _memory(limits.memory, limits.memory_swap, unified=unified)
    if limits.cpus is not None:
        quota = round(limits.cpus * _PERIOD_MICROSECONDS)
        if unified:
            yield _Setting("--cpus", "cpu", "cpu.max", f"{quota} {_PERIOD_MICROSECONDS}")
        else:
            yield _Setting("--cpus", "cpu", "cpu.cfs_period_us", f"{_PERIOD_MICROSECONDS}")
            yield _Setting("--cpus", "cpu", "cpu.cfs_quota_us", f"{quota}")
    if limits.cpuset is not None:
        yield _Setting("--cpuset-cpus", "cpuset", "cpuset.cpus", limits.cpuset)
    if limits.pids is not None and limits.pids != UNLIMITED:
        yield _Setting("--pids-limit", "pids", "pids.max", f"{limits.pids}")
    if limits.io_weight is not None:
        # Either io.cost divides a disk, or its scheduler BFQ does, whose weights end at 1000.
        bfq = min(limits.io_weight, 1000)
        if unified:
            cost, file = f"default {limits.io_weight}", "io.bfq.weight"
            yield _Setting("--io-weight", "io", file, f"{bfq}", optional=True)
            yield _Setting("--io-weight", "io", "io.weight", cost, instead=file)
        else:
            yield _Setting("--io-weight", "blkio", "blkio.bfq.weight", f"{bfq}")


def _memory(memory: int, given: int | None, *, unified: bool) -> Iterator[_Setting]:
    total = 2 * memory if given is None else given
    # A kernel without swap lacks the limit.
    optional = given is None
    if unified:
        yield _Setting("--memory", "memory", "memory.max", f"{memory}")
        swap = "max" if total == UNLIMITED else f"{total - memory}"
        yield _Setting("--memory-swap", "memory", "memory.swap.max", swap, optional)
        # One process of a view that is killed would leave the rest in an unknown state.
        yield _Setting("--memory", "memory", "memory.oom.group", "1")
    else:
        yield _Setting("--memory", "memory", "memory.limit_in_bytes", f"{memory}")
        memsw = "memory.memsw.limit_in_bytes"
        yield _Setting("--memory-swap", "memory", memsw, f"{total}", optional)


def _hierarchies() -> Iterator[_Hierarchy]:
    """Those that are mounted, with the caller's group in each."""
    own: dict[str, str] = {}
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            own |= dict.fromkeys(controllers.split(","), path)
    for mount in mountinfo.current():
        if mount.fstype == "cgroup2" and "" in own:
            directory = _below(mount, own[""])
            with suppress(OSError), open(os.path.join(directory, "cgroup.controllers")) as file:
                yield _Hierarchy(
                    unified=True,
                    root=mount.mountpoint,
                    own=directory,
                    controllers=frozenset(file.read().split()),
                )
        elif mount.fstype == "cgroup":
            names = frozenset(mount.options) & own.keys()
            if names:
                yield _Hierarchy(
                    unified=False,
                    root=mount.mountpoint,
                    own=_below(mount, own[min(names)]),
                    controllers=names,
                )


def _below(mount: Mount, path: str) -> str:
    """The directory of the group `path` in a mounted hierarchy."""
    inside = path if mount.root == "/" else path.removeprefix(mount.root)
    return os.path.normpath(f"{mount.mountpoint}/{inside}")


def _require_all(limits: Limits, found: dict[str, tuple[_Hierarchy, list[_Setting]]]) -> None:
    """Raises: LimitUnavailable for a limit whose controller is in no mounted hierarchy."""
    options = {one.option for _, settings in found.values() for one in settings}
    for wanted in _settings(limits, unified=True):
        if wanted.option not in options:
            raise LimitUnavailable(
                wanted.option,
                wanted.controller,
                "no cgroup hierarchy here has it",
                "have it delegated, as in 'systemd-run --user --scope -p Delegate=yes overlaykit ...', or leave the "
                "option out",
            )


def _enable(hierarchy: _Hierarchy, settings: Sequence[_Setting]) -> None:
    """Let children of the parent have the controllers. Raises: LimitUnavailable."""
    path = os.path.join(hierarchy.parent, _ENABLED)
    for setting in settings:
        with suppress(OSError), open(path) as file:
            if setting.controller in file.read().split():
                continue
        try:
            _write_file(path, f"+{setting.controller}")
        except OSError as error:
            raise _refused(setting, error) from None


def _make_directory(
    hierarchy: _Hierarchy, name: str, setting: _Setting, undo: ExitStack
) -> tuple[str, int]:
    """A new group and the descriptor that locks it. Raises: LimitUnavailable."""
    while True:
        path = os.path.join(hierarchy.parent, f"{_PREFIX}{name}-{os.urandom(3).hex()}")
        try:
            os.mkdir(path, 0o755)
        except OSError as error:
            raise _refused(setting, error) from None
        undo.callback(_remove_if_empty, path)
        # Another launcher may have taken it for one that was left.
        with suppress(FileNotFoundError):
            lock = os.open(path, _DIRECTORY)
            undo.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.stat(path)
            return path, lock


def _remove_abandoned(parent: str) -> None:
    """Remove the groups of views that were killed."""
    for name in os.listdir(parent):
        if not name.startswith(_PREFIX):
            continue
        with suppress(OSError):
            lock = os.open(os.path.join(parent, name), _DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rmdir(os.path.join(parent, name))
            finally:
                os.close(lock)


def _remove_if_empty(path: str) -> None:
    with suppress(OSError):
        os.rmdir(path)


def _inherit_cpuset(parent: str, path: str) -> None:
    """A group of version 1 has no processors and no memory nodes at first, and takes no process."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        with open(os.path.join(parent, file)) as source:
            _write_file(os.path.join(path, file), source.read().strip())


def _write(path: str, setting: _Setting) -> None:
    """Raises: LimitUnavailable."""
    try:
        _write_file(os.path.join(path, setting.file), setting.value)
    except FileNotFoundError as error:
        instead = setting.instead and os.path.exists(os.path.join(path, setting.instead))
        if not (setting.optional or instead):
            raise _refused(setting, error) from None
    except OSError as error:
        raise _refused(setting, error) from None


def _write_file(path: str, text: str) -> None:
    # Not created: a file that is missing is one that the kernel does not have.
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _refused(setting: _Setting, error: OSError) -> LimitUnavailable:
    reason = os.strerror(error.errno or errno.EIO)
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            out = (
                "have it delegated, as in 'systemd-run --user --scope -p Delegate=yes overlaykit ...', or leave the "
                "option out"
            )
        case errno.EBUSY:
            out = "processes in this control group keep it from having children with controllers: start from another"
        case errno.EINVAL | errno.ERANGE:
            out = f"{setting.value!r} is not what this machine can give"
        case _:
            out = "this kernel does not have it: leave the option out"
    return LimitUnavailable(setting.option, setting.controller, reason, out)
