"""The client of the fork server as the kernel shows it: whether it is the server's equal, and what a daemon takes over.

A daemon has what its parent gives a cold one: control groups, resource limits, priorities. All else must be equal.
"""

from __future__ import annotations

import errno
import os
import resource
import select
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from overlaykit import _native, attributes, mountinfo, procfs
from overlaykit.fuse.server_client import peer

if TYPE_CHECKING:
    import socket

_SO_PEERPIDFD: Final = 77  # include/uapi/asm-generic/socket.h; Linux 6.5
_SOL_SOCKET: Final = 1

_EQUAL: Final = frozenset(
    {
        b"Uid",
        b"Gid",
        b"Groups",
        b"CapInh",
        b"CapPrm",
        b"CapEff",
        b"CapBnd",
        b"CapAmb",
    }
)
"""Lines of proc_pid_status(5) that must be equal."""

_CONFINING: Final = (b"Seccomp", b"NoNewPrivs")
"""Lines that must be 0: filters, and the Landlock rules that go with NoNewPrivs, cannot be compared."""

_LIMITS: Final = tuple(
    number for name, number in vars(resource).items() if name.startswith("RLIMIT_")
)


_OWN_MOUNTS: Final = "/proc/self/ns/mnt"


def has_peer_pidfd(connection: socket.socket) -> bool:
    """Whether this kernel gives a pidfd of the process at the other end."""
    try:
        os.close(connection.getsockopt(_SOL_SOCKET, _SO_PEERPIDFD))
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return False
    return True


class Unequal(Exception):
    """A client that the server does not serve; the argument says why."""


class Peer:
    """The process that has connected. `pidfd` keeps its pid from being taken for another process's."""

    def __init__(self, connection: socket.socket) -> None:
        self.pid, self.uid, self.gid = peer(connection)
        try:
            self.pidfd = connection.getsockopt(_SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            # Before Linux 6.5. A process that got the pid of a client that has ended is this user's too, or unequal.
            self.pidfd = os.pidfd_open(self.pid)

    def close(self) -> None:
        os.close(self.pidfd)

    def is_alive(self) -> bool:
        """Whether it has not ended: what was read of it was its own."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def require_equal(self, own: Traits) -> None:
        """Raises: Unequal, OSError."""
        if (self.uid, self.gid) != (os.geteuid(), os.getegid()):
            raise Unequal("user")
        theirs = Traits(str(self.pid))
        for name, value in vars(own).items():
            if value != getattr(theirs, name):
                raise Unequal(name)
        if theirs.is_confined:
            raise Unequal("confined")
        if not self.is_alive():
            raise Unequal("ended")


class Traits:
    """What a client must have in common with the server."""

    def __init__(self, process: str) -> None:
        """Read them from proc(5). Raises: OSError."""
        at = f"/proc/{process}"
        self.namespaces = {
            name: os.readlink(f"{at}/ns/{name}") for name in sorted(os.listdir(f"{at}/ns"))
        }
        root = attributes.statx(_native.AT_FDCWD, f"{at}/root", 0, _native.STATX_MNT_ID)
        self.root = (root.dev, root.ino, root.mnt_id)
        status = dict(line.split(b":", 1) for line in procfs.read(f"{at}/status").splitlines())
        self.credentials = {name: status[name] for name in _EQUAL}
        self.is_confined = any(status.get(name, b"\t0") != b"\t0" for name in _CONFINING)
        self.personality = procfs.read(f"{at}/personality")
        try:
            self.label = procfs.read(f"{at}/attr/current")
        except OSError:  # there is no security module with labels
            self.label = b""


def adopt(client: Peer) -> None:
    """Give this process the control groups, limits and priorities of a client.

    Raises: Unequal: it may not join the groups; OSError, ValueError: it may not have the rest.
    """
    pid = client.pid
    _join_cgroups(pid)
    for number in _LIMITS:
        theirs = resource.prlimit(pid, number)
        if theirs != resource.getrlimit(number):
            resource.setrlimit(number, theirs)
    processors = os.sched_getaffinity(pid)
    if processors != os.sched_getaffinity(0):
        os.sched_setaffinity(0, processors)
    nice = os.getpriority(os.PRIO_PROCESS, pid)
    if nice != os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    policy = os.sched_getscheduler(pid)
    if policy != os.sched_getscheduler(0):
        os.sched_setscheduler(0, policy, os.sched_getparam(pid))
    score = procfs.read(f"/proc/{pid}/oom_score_adj")
    if score != procfs.read("/proc/self/oom_score_adj"):
        _write("/proc/self/oom_score_adj", score)


def neighbour(besides: set[int]) -> int:
    """A pidfd of the oldest other process of this mount namespace; -1 if this user sees none."""
    own = os.stat(_OWN_MOUNTS)
    # Twice: a process may fork and end during the search.
    for _ in range(2):
        processes = {int(name) for name in os.listdir("/proc") if name.isdecimal()}
        for process in sorted(processes - besides):
            with suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{process}/ns/mnt"), own):
                    return os.pidfd_open(process)
    return -1


def _join_cgroups(pid: int) -> None:
    """Join the control groups of a process in all hierarchies (cgroups(7))."""
    theirs, own = (procfs.read(f"/proc/{process}/cgroup") for process in (pid, "self"))
    if theirs == own:
        return
    before = set(own.splitlines())
    for line in theirs.splitlines():
        if line not in before:
            _, controllers, path = os.fsdecode(line).split(":", 2)
            try:
                _write(os.path.join(_hierarchy(controllers, path), "cgroup.procs"), b"0")
            except OSError as error:
                raise Unequal("cgroup") from error
    if procfs.read("/proc/self/cgroup") != theirs:
        raise Unequal("cgroup")


def _hierarchy(controllers: str, path: str) -> str:
    """The directory of a control group. Raises: Unequal: its hierarchy is not mounted here."""
    wanted = ("cgroup", controllers.split(",")) if controllers else ("cgroup2", [])
    for mount in mountinfo.visible(mountinfo.current()):
        is_wanted = mount.fstype == wanted[0] and set(wanted[1]) <= set(mount.options)
        if is_wanted and (path == mount.root or mountinfo.below(path, mount.root)):
            return os.path.normpath(
                os.path.join(mount.mountpoint, os.path.relpath(path, mount.root))
            )
    raise Unequal("cgroup")


def _write(path: str, value: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)
