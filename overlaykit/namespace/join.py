"""Run a command in the namespaces of a running view.

The supervisor of the view is in its user and its network namespace, and holds descriptors of the others
(native/init.c). The joining command has a supervisor of its own, which forks a process into the view's PID
namespace. That process is not PID 1: what its command leaves behind becomes a child of the view's init.

When that supervisor is killed, that in the view dies, and a process outside has to reap it: PID 1 of the host, or a
subreaper above (PR_SET_CHILD_SUBREAPER). Until then the view cannot end: the kernel has its init wait until every
process of the namespace is reaped (zap_pid_ns_processes() in kernel/pid_namespace.c). No supervisor can mend that:
the first process that enters a PID namespace has its parent outside (setns(2)).
"""

from __future__ import annotations

import os

from overlaykit import _native, child
from overlaykit.errors import Error
from overlaykit.namespace.plan import Plan
from overlaykit.namespace.view_plan import (
    Inherited,
    command,
    join_cgroups,
    owner,
    restrict,
    supervise,
)
from overlaykit.record import Record
from overlaykit.scope import ExitStack, contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from overlaykit.namespace.spec import Alone, Caller, LaunchSpec, Reporting


class NotJoinable(Error):
    message = "view {0} is starting or has ended: see 'overlaykit ps', and try again"


OFFERED: Final = {
    "mnt": _native.CLONE_NEWNS,
    "uts": _native.CLONE_NEWUTS,
    "ipc": _native.CLONE_NEWIPC,
    "cgroup": _native.CLONE_NEWCGROUP,
}
"""The namespaces that the supervisor holds descriptors of, by their names in procfs (namespaces(7))."""


CLONE_NEWTIME: Final = 0x80
"""linux/sched.h."""
_TIME: Final = "time_for_children"


class Namespaces(Record, kw_only=True):
    """Descriptors of a view's namespaces; None for those of the caller."""

    user: int | None
    network: int | None
    processes: int
    time: int | None
    offered: tuple[tuple[int, int], ...]
    """Descriptors, each with its CLONE_NEW*."""

    def enter(self) -> int:
        """Enter the user and the mount namespace; a descriptor of the view's root. Requires: a new child."""
        if self.user is not None:
            _native.setns(self.user, _native.CLONE_NEWUSER)
        (mounts,) = (found for found, kind in self.offered if kind == _native.CLONE_NEWNS)
        _native.setns(mounts, _native.CLONE_NEWNS)
        return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def enter_user(self) -> int:
        """Enter the user namespace alone; a descriptor of the view's root. Requires: a new child."""
        (root,), _ = child.make(lambda: ([self.enter()], b""))
        if self.user is not None:
            _native.setns(self.user, _native.CLONE_NEWUSER)
        return root


@contextmanager
def namespaces_of(supervisor: int, name: str) -> Iterator[Namespaces]:
    """The namespaces of the view `name`, open until the end of the block.

    Requires: `supervisor` is the process id of its supervisor as long as the view's lock is held.
    Raises: NotJoinable; OSError: EACCES if the view belongs to another user.
    """
    with ExitStack() as stack:
        try:
            opened = _open(supervisor, stack)
        except FileNotFoundError:
            opened = None
        if opened is None:
            raise NotJoinable(name)
        yield opened


def _open(supervisor: int, stack: ExitStack) -> Namespaces | None:
    def opened(path: str) -> int:
        descriptor = os.open(f"/proc/{supervisor}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        return descriptor

    def unless_ours(kind: str) -> int | None:
        theirs = f"/proc/{supervisor}/ns/{kind}"
        if os.path.samestat(os.stat(f"/proc/self/ns/{kind}"), os.stat(theirs)):
            return None
        return opened(f"ns/{kind}")

    found = {}
    time: int | None = None
    for number in os.listdir(f"/proc/{supervisor}/fd"):
        with suppress(FileNotFoundError):
            kind = os.readlink(f"/proc/{supervisor}/fd/{number}").partition(":[")[0]
            if kind in OFFERED:
                found[kind] = opened(f"fd/{number}")
    times = f"ns/{_TIME}"
    with suppress(FileNotFoundError):  # a kernel without
        if not os.path.samestat(
            os.stat("/proc/self/ns/time"), os.stat(f"/proc/{supervisor}/{times}")
        ):
            time = opened(times)
    if found.keys() != OFFERED.keys():
        return None
    return Namespaces(
        user=unless_ours("user"),
        network=unless_ours("net"),
        processes=opened("ns/pid_for_children"),
        time=time,
        offered=tuple(
            (descriptor, OFFERED[kind])
            for kind, descriptor in found.items()
            # The view may share them; to enter one again takes privileges over it.
            if kind == "mnt"
            or not os.path.samestat(os.stat(f"/proc/self/ns/{kind}"), os.fstat(descriptor))
        ),
    )


def plan_of(
    spec: LaunchSpec,
    namespaces: Namespaces,
    *,
    caller: Caller,
    filters: Sequence[bytes],
    supervision: Reporting | Alone,
) -> Plan:
    """The plan of a command that joins a view. Of `spec`, what the view has already is not used."""
    spec = spec.replace(network="host" if namespaces.network is None else "private")
    plan = Plan()
    plan.section("plan")
    slots = Inherited(plan)
    others = [
        found
        for found in (namespaces.user, namespaces.network, namespaces.time)
        if found is not None
    ]
    slots.add(
        "namespace", *others, namespaces.processes, *(found for found, _ in namespaces.offered)
    )
    supervise(plan, slots, spec, supervision)
    plan.section("monitor")
    if spec.processors:
        plan.processors(spec.processors)
    if namespaces.user is not None:
        plan.setns(slots[namespaces.user], _native.CLONE_NEWUSER)
    if namespaces.network is not None:
        plan.setns(slots[namespaces.network], _native.CLONE_NEWNET)
    if namespaces.time is not None:
        plan.setns(slots[namespaces.time], CLONE_NEWTIME)
    plan.setns(slots[namespaces.processes], _native.CLONE_NEWPID)
    plan.section("init")
    join_cgroups(plan, slots, spec)
    for descriptor, kind in namespaces.offered:
        plan.setns(slots[descriptor], kind)
    if spec.terminal is not None:
        plan.pty(owner(spec), console=False)
    plan.umask(caller.umask if spec.umask is None else spec.umask)
    plan.chdir(spec.cwd, required=spec.cwd_required)
    restrict(plan, spec, filters)
    command(plan, slots, spec, caller, filters)
    return plan
