"""The steps of a plan that are system calls and nothing else, as the calls that `_supervisor` carries out.

The program knows the step `call`: it makes a system call of `plan.CALLS`, whose descriptors are those of slots, and
puts what the call returns into a slot. A call with an empty slot is skipped. A failure that is ignored empties the
call's slot, so that the calls after it are skipped as well.
"""

from __future__ import annotations

import os
import struct
import sys
from errno import E2BIG, EINVAL, ENOENT, ENOSYS, EOPNOTSUPP, EPERM

from overlaykit import _native
from overlaykit.namespace.plan import (
    CALLS,
    EMPTIED,
    FILLED,
    GROUPS_KEPT,
    GROUPS_SET_IF_PERMITTED,
    IF_TARGET_EXISTS,
    OFFERED_LISTENER,
    OFFERED_NAMESPACES,
    OFFERED_TERMINAL,
    OPTIONAL,
    OPTIONAL_IF_ENOENT,
    OPTIONAL_IF_EPERM,
    OWN_NETWORK,
    UNLESS_FILLED,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final, TypeAlias

    Call: TypeAlias = tuple[Any, ...]
    """A step of `plan.PRIMITIVES`."""
    Word: TypeAlias = tuple[str, Any]
    """Its letter (native/plan.h) and its value."""

_ANY: Final = (1 << 64) - 1
_NOTHING: Final = "nothing"
"""A slot that is never filled."""

_NEW_USER: Final = _native.CLONE_NEWUSER
_NEW_TIME: Final = 0x80
"""CLONE_NEWTIME of linux/sched.h."""
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = _native.PR_SET_NO_NEW_PRIVS
_SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 8
_JOIN_SESSION_KEYRING: Final = 1
_F_SETFD: Final = 2
_AF_INET: Final = 2
_SOCK_DGRAM: Final = 2
_SIOCSIFFLAGS: Final = 0x8914
_SIOCADDRT: Final = 0x890B
_IFF_UP: Final = 1
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_MOVE_MOUNT_T_SYMLINKS: Final = 0x10
_REMOVE_DIRECTORY: Final = 0x200
"""AT_REMOVEDIR"""
_SCOPE_ABSTRACT_SOCKETS: Final = 1
"""LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, since Linux 6.12."""

_HERE: Final = _native.AT_FDCWD
_EMPTY: Final = _native.AT_EMPTY_PATH
_CLONED: Final = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC | _native.AT_RECURSIVE
_PTMX: Final = "/dev/pts/ptmx"
_COVERED: Final = "/run"
_TTY: Final = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
_NETWORK: Final = "/proc/sys/net"
_NAMESPACES: Final = ("mnt", "uts", "ipc", "cgroup")


def of(slot: object) -> Word:
    """The descriptor of a slot."""
    return ("d", slot)


def call(
    name: str,
    *words: int | str | bytes | Word,
    failure: str,
    subject: str = "",
    slot: object = _NOTHING,
    becomes: int = 0,
    ignored: int = 0,
) -> Call:
    """A system call of `plan.CALLS`, its failure, and what becomes of a slot."""
    given = tuple(map(_word, words))
    return ("call", CALLS.index(name), slot, becomes, ignored, failure, subject, given)


def _word(value: int | str | bytes | Word) -> Word:
    if isinstance(value, tuple):
        return value
    if isinstance(value, int):
        return ("u", value & _ANY)
    if isinstance(value, bytes):
        return ("x", value)
    text = os.fsencode(value)
    if b"\0" in text:
        raise ValueError("embedded null byte")
    return ("x", text + b"\0")


def _ignored(*errors: int) -> int:
    return sum(error << 16 * at for at, error in enumerate(errors))


def close(slot: object, failure: str) -> Call:
    """Close the descriptor of a slot, and empty the slot."""
    return call("close", of(slot), slot=slot, becomes=EMPTIED, failure=failure)


def _open(path: str, flags: int, slot: str, failure: str, subject: str = "") -> Call:
    flags |= os.O_CLOEXEC
    return call(
        *("openat", _HERE, path, flags), slot=slot, becomes=FILLED, failure=failure, subject=subject
    )


def _setattr(mount: object, flags: int, *attributes: int, **how: Any) -> Call:
    """`attributes`: set, cleared, propagation."""
    changed = struct.pack("=QQQQ", *attributes, 0)
    flags |= _EMPTY
    return call("mount_setattr", of(mount), "", flags, changed, len(changed), **how)


def _move(slot: object, path: str, failure: str) -> Call:
    flags = _native.MOVE_MOUNT_F_EMPTY_PATH
    return call("move_mount", of(slot), "", _HERE, path, flags, failure=failure)


def _attach(slot: object, target: str, flags: int) -> list[Call]:
    if not flags & IF_TARGET_EXISTS:
        return [("attach_mount", slot, target)]
    follows = _native.MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_SYMLINKS
    how: dict[str, Any] = {"failure": "ATTACH", "subject": target}
    words = ("move_mount", of(slot), "", _HERE, target, follows)
    return [call(*words, slot=slot, ignored=ENOENT, **how), close(slot, "ATTACH")]


def _setns(slot: object, kinds: int) -> list[Call]:
    failure = "USER_NAMESPACE" if kinds & _NEW_USER else "NAMESPACES"
    entered = [call("setns", of(slot), kinds, failure=failure)]
    if not kinds & _native.CLONE_NEWPID:
        return entered
    # Processes of the view see the one that joins it. They must not open its executable, a file of the host, by
    # /proc/PID/exe (ptrace(2)).
    return [call("prctl", _PR_SET_DUMPABLE, 0, failure=failure), *entered, ("joined",)]


def _unshare(kinds: int) -> list[Call]:
    return [call("unshare", kinds, failure="NAMESPACES")]


def _private_mounts() -> list[Call]:
    flags = _native.MS_REC | _native.MS_PRIVATE
    return [call("mount", 0, "/", 0, flags, failure="NAMESPACES")]


def _hostname(name: str) -> list[Call]:
    """In a view of a view a filter refuses it (EPERM): the name is the outer one's."""
    size = len(os.fsencode(name))
    return [
        call("sethostname", name, size, ignored=EPERM, failure="HOSTNAME", subject=name),
    ]


def _loopback() -> list[Call]:
    """The kernel assigns its addresses."""
    failure, slot = "LOOPBACK", "loopback"
    kind = _SOCK_DGRAM | os.O_CLOEXEC
    request = struct.pack("16sh22x", b"lo", _IFF_UP)
    return [
        call("socket", _AF_INET, kind, 0, slot=slot, becomes=FILLED, failure=failure),
        call("ioctl", of(slot), _SIOCSIFFLAGS, request, failure=failure),
        close(slot, failure),
    ]


def _connect(interface: str, requests: bytes) -> list[Call]:
    """Make the interface whose other side the helper gets, if there are requests; a failure leaves none.

    It stays until its network ends, and other programs may open it.
    """
    from overlaykit.namespace.plan import REQUEST_BYTES

    connected: Call = ("connect_network", "tap")
    if not requests:
        return [connected]
    how: dict[str, Any] = {"failure": "CONNECT", "subject": interface, "ignored": _ANY}
    tap: dict[str, Any] = {"slot": "tap", **how}
    flags = os.O_RDWR | os.O_CLOEXEC
    wanted = struct.pack("16sh22x", os.fsencode(interface), _IFF_TAP | _IFF_NO_PI)
    each = (requests[at : at + REQUEST_BYTES] for at in range(0, len(requests), REQUEST_BYTES))
    asked = [(int.from_bytes(raw[:8], sys.byteorder), raw[8:]) for raw in each]
    return [
        call("socket", _AF_INET, _SOCK_DGRAM | os.O_CLOEXEC, 0, slot="inet", becomes=FILLED, **how),
        call("openat", _HERE, "/dev/net/tun", flags, becomes=FILLED, **tap),
        call("ioctl", of("tap"), _native.TUNSETIFF, wanted, of("inet"), **tap),
        call("ioctl", of("tap"), _native.TUNSETPERSIST, 1, **tap),
        # Skipped without the tap, by a word that ioctl(2) ignores. The route may be that of an earlier command.
        *(
            call(
                *("ioctl", of("inet"), number, argument, of("tap")),
                **(how if number == _SIOCADDRT else tap),
            )
            for number, argument in asked
        ),
        close("inet", "CONNECT"),
        connected,
    ]


def _umask(mask: int) -> list[Call]:
    return [call("umask", mask, failure="PROCESS")]


def _alternative(slot: object, calls: list[Call], flags: int) -> list[Call]:
    """Of `fresh` and `clone`."""
    return [("unless", slot, len(calls)), *calls] if flags & UNLESS_FILLED else calls


def _may_fail(flags: int) -> int:
    if flags & OPTIONAL:
        return _ANY
    errors = ((OPTIONAL_IF_EPERM, EPERM), (OPTIONAL_IF_ENOENT, ENOENT))
    return _ignored(*(error for flag, error in errors if flags & flag))


def _fresh(
    slot: object,
    fstype: str,
    attributes: int,
    options: Sequence[str],
    flags: int,
    failure: str,
    subject: str,
) -> list[Call]:
    context = "context"
    how: dict[str, Any] = {"ignored": _may_fail(flags), "failure": failure, "subject": subject}
    named = ("source", fstype, *options)
    calls = [
        call("fsopen", fstype, _native.FSOPEN_CLOEXEC, slot=context, becomes=FILLED, **how),
        *(
            call(
                *("fsconfig", of(context), _native.FSCONFIG_SET_STRING, key, value, 0),
                slot=context,
                **how,
            )
            for key, value in zip(named[::2], named[1::2], strict=True)
        ),
        call("fsconfig", of(context), _native.FSCONFIG_CMD_CREATE, slot=context, **how),
        call(
            *("fsmount", of(context), _native.FSMOUNT_CLOEXEC, attributes),
            slot=slot,
            becomes=FILLED,
            **how,
        ),
        close(context, failure),
    ]
    return _alternative(slot, calls, flags)


def _clone(
    slot: object,
    path: str,
    attributes: int,
    cleared: int,
    propagation: int,
    flags: int,
    failure: str,
    subject: str,
) -> list[Call]:
    """An unprivileged process may make no other clone than a recursive one.

    It would reveal what the mounts below cover (has_locked_children() in fs/namespace.c).
    """
    how: dict[str, Any] = {"ignored": _may_fail(flags), "failure": failure, "subject": subject}
    calls = [call("open_tree", _HERE, path, _CLONED, slot=slot, becomes=FILLED, **how)]
    if attributes | cleared | propagation:
        recursive = _native.AT_RECURSIVE
        calls.append(_setattr(slot, recursive, attributes, cleared, propagation, slot=slot, **how))
    return _alternative(slot, calls, flags)


def _data(
    slot: object, source: object, owner: int, attributes: int, subject: str, mode: int
) -> list[Call]:
    """A file of a file system of its own, which is attached for a moment.

    Before Linux 6.15 open_tree(2) clones no detached mount. The file is closed before its mount becomes read-only.
    """
    how: dict[str, Any] = {"failure": "DATA", "subject": subject}
    path, file = f"{_COVERED}/file", "file"
    created = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    flags = _native.MS_NOSUID | _native.MS_NODEV
    return [
        call("mount", "tmpfs", _COVERED, "tmpfs", flags, "mode=0755", **how),
        call("openat", _HERE, path, created, 0o600, slot=file, becomes=FILLED, **how),
        ("copy", source, file, subject),
        call("fchownat", of(file), "", owner, (1 << 32) - 1, _EMPTY, **how),
        call("fchmod", of(file), mode, **how),
        close(file, "DATA"),
        call("open_tree", _HERE, path, _CLONED, slot=slot, becomes=FILLED, **how),
        _setattr(slot, _native.AT_RECURSIVE, attributes, 0, 0, **how),
        call("umount2", _COVERED, _native.MNT_DETACH, **how),
    ]


def _root(mount: object, whole_proc: object, whole_sys: object, below: object) -> list[Call]:
    """Below the new root is `below`, a small file system that no path reaches, with a whole procfs and a whole sysfs.

    An unprivileged process gets a fresh one only while it sees a whole one (mount_too_revealing() in fs/namespace.c),
    and parts of the view's are covered. The view's root covers the root of `below`: for the kernel, no process of the
    view is in a chroot(2), where it could make no user namespace (current_chrooted() in fs/namespace.c). Fails with
    EINVAL where the old root is the initial ramfs, which pivot_root(2) cannot move.
    """
    failure = "ROOT"

    def covered_by(mount: object) -> list[Call]:
        """Attach a mount, private, on top of the root directory, and make it the working directory."""
        return [
            _setattr(mount, _native.AT_RECURSIVE, 0, 0, _native.MS_PRIVATE, failure=failure),
            _move(mount, "/", failure),
            call("fchdir", of(mount), failure=failure),
        ]

    return [
        *covered_by(below),
        # With one mountpoint for the new and the old root (pivot_root(2), NOTES).
        call("pivot_root", ".", ".", failure=failure),
        call("umount2", ".", _native.MNT_DETACH, failure=failure),
        call("chdir", "/", failure=failure),
        call("mkdirat", _HERE, "/proc", 0o500, failure=failure),
        _move(whole_proc, "/proc", failure),
        call("mkdirat", _HERE, "/sys", 0o500, failure=failure),
        _move(whole_sys, "/sys", failure),
        _setattr(below, 0, _native.MOUNT_ATTR_RDONLY, 0, 0, failure=failure),
        *covered_by(mount),
        call("chroot", ".", failure=failure),
        *(close(slot, failure) for slot in (below, whole_proc, whole_sys, mount)),
    ]


def _read_only_root() -> list[Call]:
    changed = struct.pack("=QQQQ", _native.MOUNT_ATTR_RDONLY, 0, 0, 0)
    words = ("mount_setattr", _HERE, "/", 0, changed, len(changed))
    return [call(*words, failure="ROOT")]


def _time_offsets(lines: str) -> list[Call]:
    """The offsets hold from the first process in the namespace on: init (time_namespaces(7))."""
    failure, slot = "TIME", "offsets"
    return [
        call("unshare", _NEW_TIME, failure=failure),
        _open("/proc/self/timens_offsets", os.O_WRONLY, slot, failure),
        call("write", of(slot), lines, len(lines), failure=failure),
        close(slot, failure),
    ]


def _processors(mask: bytes) -> list[Call]:
    return [call("sched_setaffinity", 0, len(mask), mask, failure="PROCESSORS")]


def _join_cgroup(processes: object) -> list[Call]:
    return [call("write", of(processes), b"0", 1, failure="CGROUP")]


def _session_keyring() -> list[Call]:
    """A kernel without keys, or a filter that refuses keyctl(2) to the command as well, is no failure."""
    ignored = _ignored(ENOSYS, EPERM)
    return [call("keyctl", _JOIN_SESSION_KEYRING, 0, ignored=ignored, failure="KEYRING")]


def _no_new_privs() -> list[Call]:
    return [call("prctl", _PR_SET_NO_NEW_PRIVS, 1, failure="NO_NEW_PRIVS")]


def _seccomp(program: bytes) -> list[Call]:
    filtered = ("seccomp", _native.SECCOMP_SET_MODE_FILTER, 0, ("f", program))
    return [call(*filtered, failure="SECCOMP")]


def _release(text: str, program: bytes) -> list[Call]:
    """The monitor answers what the filter asks. EACCES without no_new_privs and CAP_SYS_ADMIN."""
    how: dict[str, Any] = {"slot": "listener", "becomes": FILLED, "failure": "RELEASE"}
    kind, flags = _native.SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_NEW_LISTENER
    return [
        ("tell_release", text),
        call("seccomp", kind, flags, ("f", program), **how),
        _offer(OFFERED_LISTENER, "RELEASE", "listener"),
        close("listener", "RELEASE"),
    ]


def _offer(kind: int, failure: str, *slots: str) -> Call:
    return ("offer", kind, failure, *slots, *(_NOTHING,) * (len(_NAMESPACES) - len(slots)))


def _scope_sockets() -> list[Call]:
    """Where the kernel is older (E2BIG), has no Landlock, or an outer filter refuses it, that is no failure."""
    failure, slot = "SCOPE", "rules"
    attributes = struct.pack("=QQQ", 0, 0, _SCOPE_ABSTRACT_SOCKETS)
    return [
        call(
            *("landlock_create_ruleset", attributes, len(attributes), 0),
            slot=slot,
            becomes=FILLED,
            ignored=_ignored(E2BIG, ENOSYS, EOPNOTSUPP, EPERM),
            failure=failure,
        ),
        call("landlock_restrict_self", of(slot), 0, failure=failure),
        close(slot, failure),
    ]


def _user(user: int, group: int, kind: int, kept: int, groups: bytes) -> list[Call]:
    how: dict[str, Any] = {"failure": "USER", "subject": f"{user}:{group}"}
    forbidden = EPERM if kind == GROUPS_SET_IF_PERMITTED else 0
    replaced = call(
        "setgroups", len(groups) // 4, groups, ignored=forbidden, failure="SUPPLEMENTARY"
    )
    return [
        *([] if kind == GROUPS_KEPT else [replaced]),
        call("setresgid", group, group, group, **how),
        # Before the change of user, with which a user other than root loses CAP_SETPCAP.
        ("bound_capabilities", kept),
        call("setresuid", user, user, user, **how),
        ("drop_capabilities", kept),
    ]


def _limit(resource: int, soft: int, hard: int, name: str) -> list[Call]:
    limits = struct.pack("=QQ", soft, hard)
    return [call("prlimit64", 0, resource, limits, 0, failure="LIMIT", subject=name)]


def _standard(number: int, source: object) -> list[Call]:
    return [call("dup3", of(source), number, 0, failure="PROCESS")]


def _close_standard(mask: int) -> list[Call]:
    return [
        call("close", number, ignored=_ANY, failure="PROCESS")
        for number in range(3)
        if mask >> number & 1
    ]


def _pass(slot: object) -> list[Call]:
    return [call("fcntl", of(slot), _F_SETFD, 0, failure="PROCESS")]


def _chdir(path: str, required: int) -> list[Call]:
    wanted = call(
        *("chdir", path), ignored=0 if required else _ANY, failure="DIRECTORY", subject=path
    )
    if required:
        return [wanted]
    return [call("chdir", "/", failure="DIRECTORY", subject="/"), wanted]


def _protect(
    masked: Sequence[str], read_only: Sequence[str], left: Sequence[str], flags: int
) -> list[Call]:
    """With a private network, /proc/sys/net stays writable.

    It shows the network of its reader, and container engines set it.
    """
    with open("/proc/sys/kernel/overflowuid", "rb", buffering=0) as file:
        shown: Call = ("protect_paths", read_only, left, flags, int(file.readall()))
    covered: Call = ("mask", masked, "/dev/null", 0, "PROC")
    if not flags & OWN_NETWORK:
        return [shown, covered]
    how: dict[str, Any] = {"ignored": ENOENT, "failure": "PROC", "subject": _NETWORK}
    return [
        call("open_tree", _HERE, _NETWORK, _CLONED, slot=_NETWORK, becomes=FILLED, **how),
        shown,
        ("attach_mount", _NETWORK, _NETWORK),
        # After it: this may be one of them.
        covered,
    ]


def _hide(paths: Sequence[str]) -> list[Call]:
    """An empty file, unlike /dev/null, refuses writes. It lies on the view's own /run meanwhile."""
    path, failure = f"{_COVERED}/.empty", "HIDE"
    how: dict[str, Any] = {"failure": failure, "subject": paths[0] if paths else ""}
    made = ("openat", _HERE, path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    return [
        call(*made, slot=path, becomes=FILLED, **how),
        close(path, failure),
        ("mask", paths, path, _native.MOUNT_ATTR_RDONLY, failure),
        call("unlinkat", _HERE, path, 0, ignored=_ANY, **how),
    ]


def terminal(owner: int) -> list[Call]:
    """Make a pty of /dev/pts, whose slots are "master" and "slave". It belongs to the user `owner`."""
    how: dict[str, Any] = {"failure": "TERMINAL", "subject": _PTMX}
    peer: dict[str, Any] = {"slot": "slave", "becomes": FILLED, **how}
    kept = (1 << 32) - 1
    return [
        _open(_PTMX, _TTY | os.O_NONBLOCK, "master", **how),
        call("ioctl", of("master"), _native.TIOCSPTLCK, bytes(4), **how),
        call("ioctl", of("master"), _native.TIOCGPTPEER, _TTY, **peer),
        # EINVAL: root is not mapped, and the caller, who is, has it already.
        call("fchownat", of("slave"), "", owner, kept, _EMPTY, ignored=EINVAL, **how),
    ]


def _pty(owner: int, console: int) -> list[Call]:
    """Make a pty of the view's devpts, give its master away, and leave the caller's session.

    Signals of the caller's terminal then reach the monitor alone, which forwards them.
    """
    how: dict[str, Any] = {"failure": "TERMINAL", "subject": _PTMX}
    cloned: dict[str, Any] = {"slot": "console", "becomes": FILLED, **how}
    # The mountpoint is an empty file.
    covered: list[Call] = [
        call("open_tree", of("slave"), "", _EMPTY | _CLONED, **cloned),
        ("attach_mount", "console", "/dev/console"),
    ]
    return [
        *terminal(owner),
        *(covered if console else ()),
        call("setsid", ignored=_ANY, **how),
        _offer(OFFERED_TERMINAL, "TERMINAL", "master"),
        close("master", "TERMINAL"),
    ]


def _session(with_pty: int) -> list[Call]:
    begun = [call("setsid", failure="PROCESS")]
    if not with_pty:
        return [*begun, ("own_session",)]
    how: dict[str, Any] = {"failure": "TERMINAL", "subject": "/dev/console"}
    return [
        *begun,
        call("ioctl", of("slave"), _native.TIOCSCTTY, 0, **how),
        *(call("dup3", of("slave"), number, 0, **how) for number in range(3)),
    ]


def _offer_namespaces() -> list[Call]:
    """Let the monitor hold the namespaces that it is not in, as descriptors.

    A command that joins the view (namespace/join.py) finds them below /proc/PID/fd of the monitor. It cannot look them
    up at init, which is not dumpable (ptrace(2)), nor at the command, which may have entered others.
    """
    failure = "NAMESPACES"
    paths = [f"/proc/self/ns/{kind}" for kind in _NAMESPACES]
    return [
        *(_open(path, os.O_RDONLY, path, failure, path) for path in paths),
        _offer(OFFERED_NAMESPACES, failure, *paths),
        *(close(path, failure) for path in paths),
    ]


def _remove_if_empty(directory: object, name: str) -> list[Call]:
    words = ("unlinkat", of(directory), name, _REMOVE_DIRECTORY)
    return [call(*words, ignored=_ANY, failure="PROCESS")]


def _end_limit(directory: object, project: int) -> list[Call]:
    from overlaykit import projects

    command, argument = projects.limiting(0)
    words = ("quotactl_fd", of(directory), command, project, argument)
    return [call(*words, ignored=_ANY, failure="PROCESS")]


_CALLS_OF: Final[dict[str, Callable[..., list[Call]]]] = {
    "attach": _attach,
    "setns": _setns,
    "unshare": _unshare,
    "private_mounts": _private_mounts,
    "hostname": _hostname,
    "loopback": _loopback,
    "connect": _connect,
    "umask": _umask,
    "fresh": _fresh,
    "clone": _clone,
    "data": _data,
    "root": _root,
    "read_only_root": _read_only_root,
    "time_offsets": _time_offsets,
    "processors": _processors,
    "join_cgroup": _join_cgroup,
    "session_keyring": _session_keyring,
    "no_new_privs": _no_new_privs,
    "scope_sockets": _scope_sockets,
    "seccomp": _seccomp,
    "release": _release,
    "limit": _limit,
    "hide": _hide,
    "protect": _protect,
    "user": _user,
    "standard": _standard,
    "close_standard": _close_standard,
    "pass": _pass,
    "chdir": _chdir,
    "pty": _pty,
    "session": _session,
    "offer_namespaces": _offer_namespaces,
    "remove_if_empty": _remove_if_empty,
    "end_limit": _end_limit,
}


def lowered(step: Sequence[Any]) -> Sequence[Call]:
    """The steps that the program carries out for a step of a plan."""
    name, *arguments = step
    made = _CALLS_OF.get(name)
    return (tuple(step),) if made is None else made(*arguments)
