"""The plan of a view: which steps make it, and in which order.

Each mount is made detached before the root changes: device nodes and shared paths can be cloned only from outside the
view, and an unprivileged process gets a fresh procfs or sysfs only while it sees a whole one (mount_too_revealing() in
fs/namespace.c). Each is attached afterwards, with the view as root, so that every path and symbolic link means what it
means inside.

The same rule of the kernel holds for user namespaces made inside the view, for nested views or containers. Covered
parts of the view's /proc and /sys would refuse them fresh ones, so whole ones are mounted where no path leads: on a
small file system below the view's root (`Plan.root`).

The command confines itself last: seccomp filters hold from their installation on, and all that follows is execve(2).
init, which reaps, has no filter.
"""

from __future__ import annotations

import os

from overlaykit import _native, privilege
from overlaykit.namespace import environment
from overlaykit.namespace.plan import (
    GROUPS_KEPT,
    GROUPS_SET,
    GROUPS_SET_IF_PERMITTED,
    IF_TARGET_EXISTS,
    OPTIONAL,
    OPTIONAL_IF_ENOENT,
    OPTIONAL_IF_EPERM,
    UNLESS_FILLED,
    Plan,
)
from overlaykit.namespace.spec import Alone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

    from overlaykit.namespace.accounts import Account
    from overlaykit.namespace.binds import Bind
    from overlaykit.namespace.confinement import Confinement
    from overlaykit.namespace.environment import Environment
    from overlaykit.namespace.outbound import Program
    from overlaykit.namespace.plan import Slot
    from overlaykit.namespace.spec import Caller, End, LaunchSpec, Reporting, RootMount

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where commands are looked up when the environment has no PATH."""

NAMESPACES: Final = {
    "mount": _native.CLONE_NEWNS,
    "uts": _native.CLONE_NEWUTS,
    "ipc": _native.CLONE_NEWIPC,
    "cgroup": _native.CLONE_NEWCGROUP,
}
"""The namespaces that init makes, so that they end with it; its PID namespace began with its fork."""

DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty", "fuse")
LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
TTY_GROUP: Final = 5
"""The group of terminals by convention (Documentation/filesystems/devpts.rst)."""

_TO_BECOME: Final = (
    1 << privilege.CAP_SETUID | 1 << privilege.CAP_SETGID | 1 << privilege.CAP_SETPCAP
)
"""What a command needs to become another user; it gives up what is not its own with that."""

_MOUNTPOINT_UMASK: Final = 0o022
_MADE_MODE: Final = 0o755
"""For the mountpoints that are made."""

_NOSUID: Final = _native.MOUNT_ATTR_NOSUID
_NODEV: Final = _native.MOUNT_ATTR_NODEV
_NOEXEC: Final = _native.MOUNT_ATTR_NOEXEC
_RDONLY: Final = _native.MOUNT_ATTR_RDONLY

_ATTRIBUTES: Final = {"nosuid": _NOSUID, "nodev": _NODEV, "noexec": _NOEXEC}
_PROPAGATIONS: Final = {"private": 0, "slave": _native.MS_SLAVE, "shared": 1 << 20}
"""MS_SHARED is missing in `_native` (sys/mount.h); a clone of a private mount is private."""


def plan_of(
    spec: LaunchSpec,
    root: RootMount,
    *,
    caller: Caller,
    listeners: Mapping[int, int],
    filters: Sequence[bytes],
    supervision: Reporting | Alone,
    helper: Program | None = None,
    hint: str = "",
) -> Plan:
    """The plan.

    Args:
      listeners: the port of the view, by the listening descriptor.
      filters: those of seccomp.
      helper: the program that connects the view's network (`Plan.connect`).
      hint: why there is none where one was looked for (`Plan.hint`).
    """
    plan = Plan()
    plan.section("plan")
    slots = Inherited(plan)
    slots.add("root", root.mount)
    if root.user_namespace is not None:
        slots.add("user namespace", root.user_namespace)
    if spec.network_namespace is not None:
        slots.add("network namespace", spec.network_namespace)
    slots.add("listener", *listeners)
    slots.add("data", *(data.descriptor for data in spec.data))
    supervise(plan, slots, spec, supervision)

    plan.section("monitor")
    if root.user_namespace is not None:
        plan.setns(slots[root.user_namespace], _native.CLONE_NEWUSER)
    if helper is not None:
        plan.helper(helper.argv, (), helper.name, waits=helper.on_use)
    if spec.network_namespace is not None:
        plan.setns(slots[spec.network_namespace], _native.CLONE_NEWNET)
    elif spec.network != "host":
        plan.unshare(_native.CLONE_NEWNET)
    if helper is not None:
        plan.connect(helper.name, helper.requests())
    for listener, port in listeners.items():
        plan.publish(slots[listener], port)
    if isinstance(supervision, Alone) and supervision.log is not None:
        log = supervision.log
        directory = slots[log.directory]
        plan.log(slots[log.stdout], slots[log.stderr], directory, log.name, log.limit)
    if spec.processors:
        plan.processors(spec.processors)
    if spec.time_offsets is not None:
        plan.time_offsets(spec.time_offsets)
    plan.unshare(_native.CLONE_NEWPID)

    plan.section("init")
    # Before the cgroup namespace, whose root is the group that the process is in.
    join_cgroups(plan, slots, spec)
    plan.unshare(sum(kind for name, kind in NAMESPACES.items() if name not in spec.shared))
    # While its mounts receive what is mounted outside.
    for bind in spec.binds:
        if bind.propagation != "private":
            _clone_bind(plan, bind)
    plan.private_mounts()
    if _has_name(spec):
        plan.hostname(spec.hostname)
    if spec.network != "host":
        plan.loopback()
    plan.umask(_MOUNTPOINT_UMASK)
    _mounts(plan, spec, caller, slots, slots[root.mount])
    plan.umask(caller.umask if spec.umask is None else spec.umask)
    plan.chdir(spec.cwd, required=spec.cwd_required)
    restrict(plan, spec, filters)
    plan.offer_namespaces()

    command(plan, slots, spec, caller, filters)
    if isinstance(supervision, Alone):
        plan.section("end")
        plan.restrict_capabilities(_kept_to_end(supervision.end))
        if hint:
            plan.hint(hint)
        _end(plan, slots, spec, supervision.end)
    return plan


def join_cgroups(plan: Plan, slots: Inherited, spec: LaunchSpec) -> None:
    if spec.cgroups is not None:
        for processes in spec.cgroups.joins:
            plan.join_cgroup(slots[processes])


def supervise(
    plan: Plan, slots: Inherited, spec: LaunchSpec, supervision: Reporting | Alone
) -> None:
    """The rest of the section "plan": the descriptors of the command, and to whom the supervisor reports."""
    slots.add("descriptor", *_passed(spec), *spec.redirected.values())
    cgroups = spec.cgroups
    if cgroups is not None:
        slots.add("cgroup", *cgroups.joins, *cgroups.locks)
        for lock in cgroups.locks:
            plan.hold(slots[lock])
        if cgroups.out_of_memory is not None:
            slots.add("memory", cgroups.out_of_memory)
    if isinstance(supervision, Alone):
        _front(plan, slots, supervision)
    else:
        _report(plan, slots, supervision)
    if spec.terminal is not None:
        plan.terminal(interactive=spec.terminal.interactive)
    if spec.grace is not None:
        plan.grace(spec.grace)
    if spec.json_status is not None:
        slots.add("json", spec.json_status)
        plan.json_status(slots[spec.json_status])


def restrict(plan: Plan, spec: LaunchSpec, filters: Sequence[bytes]) -> None:
    """What the command gives up in the section "init"."""
    plan.session_keyring()
    if spec.ulimits:
        from overlaykit.namespace import ulimits

        ulimits.raise_limits(plan, spec.ulimits)
    if not _restricts_last(spec, filters):
        plan.restrict_capabilities(_kept(spec) | (0 if spec.account is None else _TO_BECOME))


def command(
    plan: Plan, slots: Inherited, spec: LaunchSpec, caller: Caller, filters: Sequence[bytes]
) -> None:
    """The section "command". `filters` are those of seccomp."""
    plan.section("command")
    plan.ignored(caller.ignored)
    if spec.terminal is not None:
        plan.session(with_pty=True)
    elif spec.new_session:
        plan.session(with_pty=False)
    for number, source in spec.redirected.items():
        plan.standard(number, slots[source])
    closed = caller.closed - spec.redirected.keys()
    if closed and spec.terminal is None:
        plan.close_standard(sum(1 << number for number in closed))
    for descriptor in _passed(spec):
        plan.pass_on(slots[descriptor])
    if spec.ulimits:
        from overlaykit.namespace import ulimits

        ulimits.set_limits(plan, spec.ulimits)
    # Pending signals arrive now, and may end the process: all that is left is execve(2).
    plan.blocked(caller.blocked)
    if spec.confinement.no_new_privs:
        plan.no_new_privs()
    if _restricts_last(spec, filters):
        _filter(plan, spec, filters)
        if spec.account is None:
            plan.restrict_capabilities(_kept(spec))
    if spec.account is not None:
        _become(plan, spec.account, _kept(spec))
    if not _restricts_last(spec, filters):
        _filter(plan, spec, filters)
    _execute(plan, spec, caller)


def _filter(plan: Plan, spec: LaunchSpec, filters: Sequence[bytes]) -> None:
    if _is_scoped(spec):
        plan.scope_sockets()
    if spec.release is not None:
        from overlaykit.namespace import release

        plan.release(spec.release, release.instructions())
    for program in filters:
        plan.seccomp(program)


def _restricts_last(spec: LaunchSpec, filters: Sequence[bytes]) -> bool:
    """Without no_new_privs, confinement takes CAP_SYS_ADMIN (seccomp(2), landlock_restrict_self(2))."""
    return bool(filters or spec.release or _is_scoped(spec)) and not spec.confinement.no_new_privs


def _is_scoped(spec: LaunchSpec) -> bool:
    """Whether the command would reach abstract sockets of others, and is not to."""
    return spec.network == "host" and not spec.abstract_sockets


def _kept(spec: LaunchSpec) -> int:
    return sum(1 << capability for capability in spec.confinement.capabilities)


def owner(spec: LaunchSpec) -> int:
    """The user that a terminal and files in memory belong to."""
    return 0 if spec.account is None else spec.account.user


def _become(plan: Plan, account: Account, kept: int) -> None:
    groups = account.groups
    for_all = GROUPS_SET if groups else GROUPS_SET_IF_PERMITTED
    kind = GROUPS_KEPT if groups is None else for_all
    plan.user(account.user, account.group, kind, kept, groups or ())


def _passed(spec: LaunchSpec) -> list[int]:
    return [descriptor for descriptor in sorted({*spec.descriptors}) if descriptor > 2]


class Inherited:
    """The slots of the inherited descriptors, by number: a descriptor has one slot."""

    def __init__(self, plan: Plan) -> None:
        self._plan: Final = plan
        self._slots: Final[dict[int, Slot]] = {}

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    def add(self, kind: str, *numbers: int) -> None:
        for number in numbers:
            if number not in self._slots:
                self._slots[number] = self._plan.descriptor(f"{kind} {number}", number)


def _report(plan: Plan, slots: Inherited, supervision: Reporting) -> None:
    slots.add("status", supervision.status_write)
    slots.add("reap", supervision.reap_read)
    slots.add("parent", supervision.parent)
    slots.add("held", *supervision.hold)
    plan.report(slots[supervision.status_write], slots[supervision.reap_read])
    plan.parent(slots[supervision.parent])
    for descriptor in supervision.hold:
        plan.hold(slots[descriptor])


def _front(plan: Plan, slots: Inherited, supervision: Alone) -> None:
    end = supervision.end
    slots.add("watched", *supervision.abort_on)
    slots.add("held", *supervision.hold, *supervision.hold_until_started)
    slots.add(
        "directory",
        *(directory for directory, _ in (*end.limits, *end.remove, *end.remove_if_empty)),
    )
    if end.written is not None:
        slots.add("daemon", end.written)
    if end.status is not None:
        slots.add("directory", end.status[0])
    if end.remove_opened is not None:
        slots.add("directory", end.remove_opened)
    if supervision.log is not None:
        slots.add("log", supervision.log.stdout, supervision.log.stderr)
        slots.add("directory", supervision.log.directory)
    if supervision.announce is not None:
        slots.add("announce", supervision.announce)
        plan.announce(slots[supervision.announce])
    if supervision.input is not None:
        slots.add("input", supervision.input)
        plan.input(slots[supervision.input])
    plan.front(supervision.report, supervision.env)
    for descriptor in supervision.abort_on:
        plan.abort_on(slots[descriptor])
    for descriptor in supervision.hold:
        plan.hold(slots[descriptor])
    for directory, _ in (*end.limits, *end.remove_if_empty):
        plan.hold(slots[directory])


def _mounts(plan: Plan, spec: LaunchSpec, caller: Caller, slots: Inherited, root: Slot) -> None:
    """Make every mount of the view, change the root, attach them."""
    host_network = spec.network == "host"
    kernel = _NOSUID | _NODEV | _NOEXEC
    proc, whole_proc = (
        plan.fresh(slot, "proc", kernel, failure="PROC", subject="/proc")
        for slot in ("proc", "whole proc")
    )
    for slot in ("sys", "whole sys"):
        _sysfs(plan, slot, kernel | _RDONLY, host_network=host_network)
    # The usual group of terminals, where this user namespace maps it.
    modes = ("ptmxmode", "0666", "mode", "0620")
    for options, flags in (((*modes, "gid", str(TTY_GROUP)), OPTIONAL), (modes, UNLESS_FILLED)):
        plan.fresh("pts", "devpts", _NOSUID | _NOEXEC, options, flags, subject="/dev/pts")
    # A view works without these where the kernel lacks or refuses them.
    plan.fresh("cgroup", "cgroup2", kernel | _RDONLY, flags=OPTIONAL, subject="/sys/fs/cgroup")
    if "cgroup" in spec.shared:
        # An unprivileged view gets no fresh one of the host's.
        plan.clone("cgroup", "/sys/fs/cgroup", _RDONLY, UNLESS_FILLED | OPTIONAL_IF_ENOENT)
    devices = {name: f"/dev/{name}" for name in DEVICES}
    if caller.console is not None and spec.terminal is None:
        devices["console"] = caller.console
    for name, path in devices.items():
        plan.clone(f"/dev/{name}", path, flags=OPTIONAL_IF_ENOENT)
    if "ipc" in spec.shared:
        for path in ("/dev/shm", "/dev/mqueue"):  # noqa: S108
            plan.clone(path, path, flags=OPTIONAL_IF_ENOENT)
    else:
        plan.fresh("/dev/mqueue", "mqueue", kernel, flags=OPTIONAL, subject="/dev/mqueue")
    for bind in spec.binds:
        if bind.propagation == "private":
            _clone_bind(plan, bind)
    for device in spec.devices:
        plan.clone(f"device {device.target}", device.source, failure="BIND_SOURCE")
    below = plan.fresh("below", "tmpfs", kernel, ("mode", "0500"), failure="ROOT")

    plan.root(root, whole_proc, "whole sys", below)

    if spec.nested is not None:
        from overlaykit.namespace import nested

        nested.take_files(plan)

    plan.attach(proc, "/proc")
    plan.attach("sys", "/sys")
    plan.attach("cgroup", "/sys/fs/cgroup", IF_TARGET_EXISTS)
    # Its devices are mounts: a node that is made beside them opens nothing.
    plan.fresh("dev", "tmpfs", kernel, ("mode", "0755"), subject="/dev")
    size = () if spec.shm_size is None else ("size", spec.shm_size)
    if "ipc" not in spec.shared:
        shm = "/dev/shm"  # noqa: S108
        plan.fresh(shm, "tmpfs", _NOSUID | _NODEV, ("mode", "1777", *size), subject=shm)
    plan.attach("dev", "/dev")
    for name, target in LINKS:
        plan.symlink(target, f"/dev/{name}")
    for name in devices:
        plan.attach(f"/dev/{name}", f"/dev/{name}")
    plan.attach("pts", "/dev/pts")
    if spec.terminal is not None:
        plan.pty(owner(spec), console=True)
    plan.attach("/dev/shm", "/dev/shm")  # noqa: S108
    plan.attach("/dev/mqueue", "/dev/mqueue")
    _protect(plan, spec.confinement, own_network=not host_network)
    plan.fresh("run", "tmpfs", _NOSUID | _NODEV, ("mode", "0755"), subject="/run")
    plan.attach("run", "/run")
    _names(plan, spec, host_network=host_network)
    for cover in spec.covers:
        makes = cover.make and not spec.keep  # a file that is made would stay
        plan.cover(cover.path, cover.contents, make=makes, required=cover.required)
    if spec.hidden:
        plan.hide(spec.hidden)
    for bind in spec.binds:
        plan.bind(f"bind {bind.target}", bind.target)
    for device in spec.devices:
        plan.bind(f"device {device.target}", device.target)
    for tmpfs in spec.tmpfs:
        slot = plan.fresh(
            f"tmpfs {tmpfs.target}",
            "tmpfs",
            tmpfs.attributes,
            tmpfs.options,
            subject=tmpfs.target,
        )
        plan.bind(slot, tmpfs.target)
    for data in spec.data:
        plan.data(
            f"data {data.target}",
            slots[data.descriptor],
            owner(spec),
            _NOSUID | _NODEV | _RDONLY * data.read_only,
            data.target,
            data.mode,
        )
        plan.bind(f"data {data.target}", data.target)
    if spec.binds or spec.devices or spec.tmpfs or spec.data:
        plan.attach_binds()
    if spec.nested is not None:
        nested.complete(plan, spec.nested, spec.hidden)
    for directory in spec.directories:
        plan.directory(directory.path, directory.mode)
    for link in spec.symlinks:
        plan.directory(os.path.dirname(link.path), _MADE_MODE)
        plan.symlink(link.target, link.path)
    if spec.writable:
        # Clones of before are not read-only. They hold what is mounted below.
        for path in spec.writable:
            plan.clone(f"writable {path}", path, failure="BIND_SOURCE")
        plan.read_only_root()
        for path in spec.writable:
            plan.attach(f"writable {path}", path)


def _names(plan: Plan, spec: LaunchSpec, *, host_network: bool) -> None:
    """The view's own /etc/hosts, /etc/hostname and /etc/resolv.conf."""
    names = spec.names
    lines = "" if names is None else names.hosts_lines
    named = not host_network or _has_name(spec)
    if lines or named:
        plan.hosts(spec.hostname if named else "", lines, keep=spec.keep)
    if _has_name(spec):
        plan.cover("/etc/hostname", f"{spec.hostname}\n")
    if spec.resolver is not None:
        required = names is not None and names.resolves
        plan.cover("/etc/resolv.conf", spec.resolver, make=True, required=required)


def _has_name(spec: LaunchSpec) -> bool:
    """Whether the view has a host name of its own: in the host's network, only one that was asked for."""
    asked_for = spec.names is not None and spec.names.hostname is not None
    return "uts" not in spec.shared and (asked_for or spec.network != "host")


def _clone_bind(plan: Plan, bind: Bind) -> None:
    attributes, cleared = (
        sum(_ATTRIBUTES[name] for name in names) for names in (bind.attributes, bind.cleared)
    )
    plan.clone(
        f"bind {bind.target}",
        bind.source,
        attributes | _RDONLY * bind.read_only,
        cleared=cleared,
        propagation=_PROPAGATIONS[bind.propagation],
        failure="BIND_OPTIONS" if cleared else "BIND_SOURCE",
    )


def _sysfs(plan: Plan, slot: Slot, attributes: int, *, host_network: bool) -> None:
    if not host_network:
        plan.fresh(slot, "sysfs", attributes, subject="/sys")
        return
    # A sysfs belongs to a network namespace: an unprivileged view gets no fresh one of the host's.
    plan.fresh(slot, "sysfs", attributes, flags=OPTIONAL_IF_EPERM, subject="/sys")
    plan.clone(slot, "/sys", _RDONLY, UNLESS_FILLED)


def _protect(plan: Plan, confinement: Confinement, *, own_network: bool) -> None:
    if confinement.masked or confinement.read_only or confinement.machine:
        plan.protect(
            confinement.masked,
            confinement.read_only,
            confinement.left,
            own_network=own_network,
            machine=confinement.machine,
        )


def _execute(plan: Plan, spec: LaunchSpec, caller: Caller) -> None:
    """The command, looked up along PATH if its name has no slash.

    Sockets passed to the caller are passed on (sd_listen_fds(3)): a program uses them only if LISTEN_PID is its own
    process id.
    """
    env = spec.env
    with_sockets = environment.get(env, "LISTEN_PID") == str(caller.pid)
    if with_sockets:
        env = environment.replace(env, "LISTEN_PIDFDID", None)
        # One entry of the name, whose value the supervisor replaces.
        env = environment.replace(env, "LISTEN_PID", "")
    name = spec.argv[0]
    plan.execute(spec.argv, env, candidates(name, env), with_sockets=with_sockets)


def candidates(name: str, env: Environment) -> list[str]:
    """The paths at which a command may be, in their order."""
    if not name:
        return []
    if "/" in name:
        return [name]
    path = environment.get(env, "PATH") or PATH
    return [os.path.join(directory, name) for directory in path.split(":")]


def _kept_to_end(end: End) -> int:
    """What the supervisor keeps besides its own child: what the removal of others' files needs, and of a limit."""
    removes = end.remove or end.remove_if_empty or end.remove_opened is not None
    of_files = 1 << privilege.CAP_DAC_OVERRIDE | 1 << privilege.CAP_FOWNER
    return (of_files if removes else 0) | (1 << privilege.CAP_SYS_ADMIN if end.limits else 0)


def _end(plan: Plan, slots: Inherited, spec: LaunchSpec, end: End) -> None:
    if spec.cgroups is not None and spec.cgroups.out_of_memory is not None:
        plan.out_of_memory(slots[spec.cgroups.out_of_memory])
    if end.written is not None:
        plan.wait_for(slots[end.written])
    if end.status is not None:
        plan.record_status(slots[end.status[0]], end.status[1])
    for directory, project in end.limits:
        plan.end_limit(slots[directory], project)
    for directory, name in end.remove:
        plan.remove(slots[directory], name)
    for directory, name in end.remove_if_empty:
        plan.remove_if_empty(slots[directory], name)
    if end.remove_opened is not None:
        plan.remove_opened(slots[end.remove_opened])
