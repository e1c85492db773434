"""The plan that `_supervisor` carries out: its steps as plain data, and the bytes that the program reads.

A step is a tuple: its name, then its arguments. A *slot* is the name of a descriptor: an inherited one (`descriptor`)
or one that a step makes. The sections "plan", "monitor", "init", "command" and "end" follow one another; `view_plan`
fills them. `setup/headers.py` gives the program the forms of the steps and the flags; native/plan.c refuses bytes that
it does not understand. Whether a plan makes sense is checked here, before the program sees it (`check`).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from typing import Any, Final, TypeAlias

    _Special: TypeAlias = Callable[["_Check", Sequence[Any]], str | None]

    Slot: TypeAlias = str
    Argument: TypeAlias = int | str | bytes | tuple[str | bytes, ...]
    Step: TypeAlias = tuple[Argument, ...]

MAGIC: Final = b"overlaykit plan\0"
VERSION: Final = 1
LARGEST: Final = 8 << 20
"""Bytes."""
MOST_SLOTS: Final = 4096

SECTIONS: Final = ("plan", "monitor", "init", "command", "end")

OPTIONAL: Final = 1
"""Of `fresh` and `clone`: an error leaves the slot empty, and steps that use it are skipped."""
UNLESS_FILLED: Final = 2
"""Of `fresh` and `clone`: an alternative to an optional step before it."""
OPTIONAL_IF_EPERM: Final = 4
OPTIONAL_IF_ENOENT: Final = 8
IF_TARGET_EXISTS: Final = 1
"""Of `attach`."""
OWN_NETWORK: Final = 1
"""Of `protect`."""
MACHINE: Final = 2
"""Of `protect`."""
COVER_MAKE: Final = 1
"""Of `cover`."""
COVER_REQUIRED: Final = 2
"""Of `cover`."""
GROUPS_KEPT: Final = 0
"""Of `user`: the supplementary groups stay."""
GROUPS_SET: Final = 1
GROUPS_SET_IF_PERMITTED: Final = 2
"""An ordinary user who maps its own ids only may not call setgroups(2)."""
REQUEST_BYTES: Final = 128
"""Of `helper`: the size of a request."""


FORMS: Final = {
    "section": (1, "n", "plan monitor init command end"),
    "descriptor": (2, "mu", "plan"),
    "report": (3, "dd", "plan"),
    "front": (4, "vl", "plan"),
    "parent": (5, "d", "plan"),
    "abort_on": (6, "d", "plan"),
    "hold": (7, "d", "plan"),
    "setns": (0, "dk", "monitor init"),
    "unshare": (0, "k", "monitor init"),
    "publish": (10, "dn", "monitor"),
    "private_mounts": (0, "", "init"),
    "hostname": (0, "h", "init"),
    "loopback": (0, "", "init"),
    "umask": (0, "n", "init"),
    "fresh": (0, "msaonFs", "init"),
    "clone": (0, "msaaunFs", "init"),
    "root": (0, "cccc", "init"),
    "attach": (0, "csn", "init"),
    "symlink": (19, "ss", "init"),
    "bind": (20, "cs", "init"),
    "attach_binds": (21, "", "init"),
    "protect": (0, "PPPn", "init"),
    "hosts": (23, "hsb", "init"),
    "chdir": (0, "sb", "init"),
    "restrict_capabilities": (25, "u", "init command end"),
    "blocked": (26, "u", "command"),
    "ignored": (27, "u", "command"),
    "standard": (0, "nd", "command"),
    "close_standard": (0, "n", "command"),
    "pass": (0, "d", "command"),
    "exec": (31, "vllb", "command"),
    "await": (32, "d", "end"),
    "remove": (33, "de", "end"),
    "remove_if_empty": (0, "de", "end"),
    "offer_namespaces": (0, "", "init"),
    "terminal": (36, "n", "plan"),
    "pty": (0, "ib", "init"),
    "read_only_root": (0, "", "init"),
    "session": (0, "n", "command"),
    "announce": (39, "d", "plan"),
    "log": (40, "dddeu", "monitor"),
    "record_status": (41, "de", "end"),
    "session_keyring": (0, "", "init"),
    "no_new_privs": (0, "", "command"),
    "seccomp": (0, "x", "command"),
    "join_cgroup": (0, "d", "init"),
    "out_of_memory": (46, "d", "end"),
    "limit": (0, "nuus", "init command"),
    "user": (0, "iinux", "command"),
    "hide": (0, "P", "init"),
    "scope_sockets": (0, "", "command"),
    "grace": (51, "n", "plan"),
    "json_status": (52, "d", "plan"),
    "data": (0, "mdiasn", "init"),
    "time_offsets": (0, "s", "monitor"),
    "processors": (0, "x", "monitor"),
    "helper": (55, "vlsb", "monitor"),
    "connect": (0, "sx", "monitor"),
    "cover": (57, "/sn", "init"),
    "input": (58, "d", "plan"),
    "end_limit": (0, "du", "end"),
    "hint": (60, "s", "end"),
    "directory": (61, "sn", "init"),
    "remove_opened": (62, "d", "end"),
    "release": (0, "sx", "command"),
}
"""Of each step its code, a letter for each argument (native/plan.h), and the sections that may have it.

Without a code: those that become other steps of the program (`calls.lowered`).
"""

CALLS: Final = (
    *("chdir", "chroot", "close", "dup3", "fchdir", "fchmod", "fchmodat", "fchownat"),
    *("fcntl", "finit_module", "fsconfig", "fsmount", "fsopen", "inotify_add_watch"),
    *("inotify_init1", "ioctl", "keyctl", "landlock_create_ruleset"),
    *("landlock_restrict_self", "mkdirat", "mount", "mount_setattr", "move_mount"),
    *("open_tree", "openat", "pivot_root", "prctl", "prlimit64", "quotactl_fd"),
    *("sched_setaffinity", "seccomp", "setgroups", "sethostname", "setns"),
    *("setresgid", "setresuid"),
    *("setsid", "socket", "symlinkat", "sync", "umask", "umount2", "unlinkat", "unshare", "write"),
)
"""System calls, each SYS_name of sys/syscall.h; a plan has the place of one."""

PRIMITIVES: Final = {
    "call": (12, "umnuFsw"),
    "unless": (13, "mu"),
    "joined": (14, ""),
    "offer": (15, "uFdddd"),
    "tell_release": (16, "s"),
    "own_session": (17, ""),
    "attach_mount": (18, "cs"),
    "protect_paths": (22, "PPnu"),
    "mask": (49, "PsuF"),
    "bound_capabilities": (47, "u"),
    "drop_capabilities": (48, "u"),
    "copy": (53, "dds"),
    "until": (8, "ds"),
    "run": (9, "v"),
    "guest_session": (11, "ddbdddi"),
    "connect_network": (56, "c"),
}
"""Of each step that only the program's bytes have its code, and a letter for each argument.

`call`: the call; a slot; what becomes of that: nothing, FILLED with the result, or EMPTIED; the ignored errnos, 16
bits each; the failure and its subject; the words. `unless`: a slot, and how many steps are skipped if it is filled.
`joined`: the end of another view ends this one. `offer`: send the monitor descriptors of a kind (OFFERED_*), with the
name of a failure; the first empty slot ends them. `tell_release`: what `release` says. `own_session`: the command has
one, without a terminal. `attach_mount`: `attach`, without flags. `protect_paths`: `protect`, without what is masked,
and the network; and the user in place of those that are not mapped. `mask`: the paths, the file that covers files,
attributes of its mount, the failure. `bound_capabilities`, `drop_capabilities`: the parts of `restrict_capabilities`;
the second may fail. `copy`: all that is read from a descriptor into a file, with the subject of a failure.
`connect_network`: the other side of an interface. `until`, `run`, `guest_session`: of guests (machine/plan.py).
"""

FILLED: Final = 1
EMPTIED: Final = 2
"""Of `call`."""
OFFERED_NAMESPACES: Final = ord("n")
"""Of `offer`: mnt, uts, ipc, cgroup."""
OFFERED_TERMINAL: Final = ord("t")
"""The master of a pty."""
OFFERED_LISTENER: Final = ord("l")
"""Of a filter that asks."""

_INTEGERS: Final = frozenset("unbaik")
_SLOTS: Final = frozenset("dmc")
_STRINGS: Final = frozenset("s/heF")
PLAIN: Final = {
    **dict.fromkeys("nbaik", "u"),
    **dict.fromkeys("/heF", "s"),
    **dict.fromkeys("voP", "l"),
}
"""The letters that native/plan.h does not have, as those that stand for the same bytes."""


_ONCE: Final = frozenset(
    (
        *("report", "front", "parent", "root", "attach_binds", "hosts", "blocked", "ignored"),
        *("close_standard", "exec", "offer_namespaces", "terminal", "pty", "session", "announce"),
        *(
            "log",
            "record_status",
            "no_new_privs",
            "out_of_memory",
            "user",
            "scope_sockets",
            "grace",
        ),
        *(
            "json_status",
            "time_offsets",
            "processors",
            "helper",
            "connect",
            "input",
            "hint",
            "release",
        ),
    )
)
"""Steps that occur once at most."""

_NO_FLAGS: Final = "there are no such flags"
_MOST: Final = {
    "section": (len(SECTIONS) - 1, "there is no such section"),
    "publish": ((1 << 16) - 1, "it is no port"),
    "umask": (0o777, "it is no umask"),
    "fresh": (OPTIONAL_IF_ENOENT - 1, _NO_FLAGS),
    "clone": (2 * OPTIONAL_IF_ENOENT - 1, _NO_FLAGS),
    "attach": (IF_TARGET_EXISTS, _NO_FLAGS),
    "protect": (OWN_NETWORK | MACHINE, _NO_FLAGS),
    "standard": (2, "it is no standard descriptor"),
    "close_standard": (7, "it is no standard descriptor"),
    "terminal": (1, _NO_FLAGS),
    "session": (1, _NO_FLAGS),
    "limit": (15, "there is no such limit"),
    "user": (GROUPS_SET_IF_PERMITTED, _NO_FLAGS),
    "grace": ((1 << 31) - 1, "it is too long"),
    "cover": (COVER_MAKE | COVER_REQUIRED, _NO_FLAGS),
    "data": (0o7777, "it is no mode"),
    "directory": (0o7777, "it is no mode"),
}
"""What the argument with the letter n is at most, and what is wrong if it exceeds that."""

_NAMESPACES: Final = 0x7E020080
"""CLONE_NEW* of linux/sched.h."""
_NEW_PROCESSES: Final = 0x20000000
"""CLONE_NEWPID"""
_PROPAGATIONS: Final = frozenset((0, 1 << 18, 1 << 19, 1 << 20))
"""MS_PRIVATE, MS_SLAVE and MS_SHARED of linux/mount.h."""
_LONGEST_HOSTNAME: Final = 64
_LONGEST_FILE_NAME: Final = 60
_LONGEST_FAILURE: Final = 32
_INSTRUCTION_BYTES: Final = 8
"""struct sock_filter"""
_MOST_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS"""
_MOST_GROUPS: Final = 1 << 16

_VALUES: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "b": (lambda flag: flag <= 1, _NO_FLAGS),
    "a": (lambda attributes: attributes < 1 << 32, "there are no such attributes"),
    "i": (lambda number: number < (1 << 32) - 1, "it is no user or group"),
    "k": (lambda kinds: not kinds & ~_NAMESPACES, "there are no such namespaces"),
    "h": (lambda name: len(os.fsencode(name)) <= _LONGEST_HOSTNAME, "the name is too long"),
    "F": (
        lambda name: 0 < len(name) <= _LONGEST_FAILURE and name.replace("_", "A").isupper(),
        "the name of the failure is none",
    ),
    "e": (lambda name: name not in ("", ".", "..") and "/" not in name, "the name is none"),
    "v": (bool, "there is no program"),
    "o": (lambda options: len(options) % 2 == 0, "an option has no value"),
    "/": (lambda path: path.startswith("/"), "a path is not absolute"),
    "P": (lambda paths: all(path.startswith("/") for path in paths), "a path is not absolute"),
}
"""By the letters of signatures."""


class BadPlan(Exception):
    """A plan that makes no sense, which is an error of ours."""


class TooLarge(Exception):
    """The plan exceeds `LARGEST`, which only arguments and an environment for execve(2) can cause."""


class TooManyDescriptors(Exception):
    """The plan names more than `MOST_SLOTS`, which only descriptors for the command can cause."""


class Plan:
    """The steps of a view, in order. `steps` is to be compared in tests, `encode` makes the bytes.

    One method appends one step, so that its arguments are type-checked.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def section(self, name: str) -> None:
        """Begin a section. The first is "plan"; they come in the order of SECTIONS."""
        self.steps.append(("section", SECTIONS.index(name)))

    def descriptor(self, slot: Slot, number: int) -> Slot:
        """Keep an inherited descriptor; all others are closed."""
        self.steps.append(("descriptor", slot, number))
        return slot

    def report(self, status: Slot, reap: Slot) -> None:
        """Report to a parent: the write end of the status pipe, the read end of the reap pipe (see `launch`)."""
        self.steps.append(("report", status, reap))

    def front(self, argv: Sequence[str], env: Sequence[bytes]) -> None:
        """Without a parent: the program that is executed when a step has failed, with its record as arguments."""
        self.steps.append(("front", tuple(argv), tuple(env)))

    def parent(self, process: Slot) -> None:
        """Kill the view when the parent's pidfd becomes readable."""
        self.steps.append(("parent", process))

    def abort_on(self, slot: Slot) -> None:
        """Kill the view when this becomes readable."""
        self.steps.append(("abort_on", slot))

    def hold(self, slot: Slot) -> None:
        """Keep a descriptor open until the end."""
        self.steps.append(("hold", slot))

    def grace(self, milliseconds: int) -> None:
        """SIGTERM is for every process of the view; what is left after the time is killed."""
        self.steps.append(("grace", milliseconds))

    def json_status(self, slot: Slot) -> None:
        """Write lines of JSON into a descriptor: child-pid, init's process id; at the end exit-code."""
        self.steps.append(("json_status", slot))

    def terminal(self, *, interactive: bool) -> None:
        """Relay between the caller's streams and the view's terminal; without `interactive`, its output alone."""
        self.steps.append(("terminal", int(interactive)))

    def input(self, slot: Slot) -> None:
        """Keep a write end of the pipe that is the input, until a client says that the input has ended."""
        self.steps.append(("input", slot))

    def announce(self, to: Slot) -> None:
        """Write a byte into `to` once the command is executed, and leave standard error."""
        self.steps.append(("announce", to))

    def log(self, stdout: Slot, stderr: Slot, directory: Slot, name: str, limit: int) -> None:
        """Append what comes from two pipes to a file of a directory.

        At `limit` bytes the file is renamed to NAME.1.
        """
        self.steps.append(("log", stdout, stderr, directory, name, limit))

    def setns(self, namespace: Slot, kinds: int) -> None:
        """setns(2), with CLONE_NEW*."""
        self.steps.append(("setns", namespace, kinds))

    def unshare(self, kinds: int) -> None:
        """unshare(2), with CLONE_NEW*."""
        self.steps.append(("unshare", kinds))

    def time_offsets(self, lines: str) -> None:
        """Have children enter a new time namespace, whose clocks differ by `lines` (time_namespaces(7))."""
        self.steps.append(("time_offsets", lines))

    def processors(self, numbers: Collection[int]) -> None:
        """Have this process, and its children, run on these processors (sched_setaffinity(2))."""
        bits = sum(1 << number for number in numbers)
        words = bits.bit_length() // 64 + 1  # the kernel takes whole words of a long
        self.steps.append(
            (
                "processors",
                b"".join(
                    (bits >> 64 * at & (1 << 64) - 1).to_bytes(8, sys.byteorder)
                    for at in range(words)
                ),
            )
        )

    def helper(
        self, argv: Sequence[str], env: Sequence[bytes], interface: str, *, waits: bool
    ) -> None:
        """A program that stays in the network of the steps before, with the view's life, for `connect`.

        With `waits` it is started for the first packet, and the interface is made without it.
        """
        self.steps.append(("helper", tuple(argv), tuple(env), interface, int(waits)))

    def connect(self, interface: str, requests: Sequence[bytes]) -> None:
        """Start the program of `helper`, and wait until it has connected the network namespace, or ends the launch.

        An empty argument stands for the path of the namespace. The program is ready once it has written to the
        descriptor 3, or has ended with the status 0: it may go on in the background. If `helper` waits, nothing is
        waited for here, and the view has no way outward if the program or a request fails.

        `requests`: if the interface is made without the program, those of ioctl(2) that set it up: each a number of 8
        bytes and the argument, REQUEST_BYTES in all.
        """
        self.steps.append(("connect", interface, b"".join(requests)))

    def publish(self, listener: Slot, port: int) -> None:
        """Forward a listening socket of the host to a port of the view."""
        self.steps.append(("publish", listener, port))

    def join_cgroup(self, processes: Slot) -> None:
        """Join a control group; `processes`: its file cgroup.procs."""
        self.steps.append(("join_cgroup", processes))

    def private_mounts(self) -> None:
        """Make every mount private."""
        self.steps.append(("private_mounts",))

    def hostname(self, name: str) -> None:
        """sethostname(2)."""
        self.steps.append(("hostname", name))

    def loopback(self) -> None:
        """Raise the loopback interface."""
        self.steps.append(("loopback",))

    def umask(self, mask: int) -> None:
        """umask(2)."""
        self.steps.append(("umask", mask))

    def fresh(
        self,
        slot: Slot,
        fstype: str,
        attributes: int,
        options: tuple[str, ...] = (),
        flags: int = 0,
        *,
        failure: str = "FILE_SYSTEM",
        subject: str = "",
    ) -> Slot:
        """Make a detached mount of a fresh file system.

        `attributes`: MOUNT_ATTR_*; `options`: key, value and so on; `failure`: a name of `failure.WORDING`.
        """
        self.steps.append(("fresh", slot, fstype, attributes, options, flags, failure, subject))
        return slot

    def clone(
        self,
        slot: Slot,
        path: str,
        attributes: int = 0,
        flags: int = 0,
        *,
        cleared: int = 0,
        propagation: int = 0,
        failure: str = "FILE_SYSTEM",
        subject: str = "",
    ) -> Slot:
        """Make a detached clone of the mount at `path` and of all mounts below it; `subject` is the path by default.

        `attributes` are set and `cleared` are cleared, of all of them; `propagation`: MS_SLAVE, MS_SHARED or 0.
        """
        arguments = attributes, cleared, propagation, flags
        self.steps.append(("clone", slot, path, *arguments, failure, subject or path))
        return slot

    def data(
        self, slot: Slot, source: Slot, owner: int, attributes: int, subject: str, mode: int
    ) -> Slot:
        """Make a detached mount of a file in memory, with all that is read from the descriptor `source`.

        `owner`: a user; `attributes`: MOUNT_ATTR_*; `mode`: permissions.
        """
        self.steps.append(("data", slot, source, owner, attributes, subject, mode))
        return slot

    def root(self, mount: Slot, whole_proc: Slot, whole_sys: Slot, below: Slot) -> None:
        """Make a detached mount the root directory.

        The mount `below`, which no path reaches, lies below it and holds a whole procfs and sysfs.
        """
        self.steps.append(("root", mount, whole_proc, whole_sys, below))

    def attach(self, mount: Slot, target: str, flags: int = 0) -> None:
        """Attach a detached mount in the view; make the mountpoint if it is missing."""
        self.steps.append(("attach", mount, target, flags))

    def read_only_root(self) -> None:
        """Refuse changes of the root mount (EROFS); those below it stay as they are."""
        self.steps.append(("read_only_root",))

    def directory(self, path: str, mode: int) -> None:
        """Make a directory with these permissions, and those above it that are missing. One may be there."""
        self.steps.append(("directory", path, mode))

    def symlink(self, target: str, path: str) -> None:
        """symlink(2). One with the same target may be there."""
        self.steps.append(("symlink", target, path))

    def bind(self, mount: Slot, target: str) -> None:
        """Have `attach_binds` attach a detached mount."""
        self.steps.append(("bind", mount, target))

    def attach_binds(self) -> None:
        """Attach the mounts of `bind`, parents before the paths below them."""
        self.steps.append(("attach_binds",))

    def pty(self, owner: int, *, console: bool) -> None:
        """Make a terminal in the view's /dev/pts, also as /dev/console if that is wanted.

        It belongs to the user `owner`.
        """
        self.steps.append(("pty", owner, int(console)))

    def hide(self, paths: Sequence[str]) -> None:
        """Cover the paths that exist by empty read-only places."""
        self.steps.append(("hide", tuple(paths)))

    def protect(
        self,
        masked: Sequence[str],
        read_only: Sequence[str],
        left: Sequence[str],
        *,
        own_network: bool,
        machine: bool,
    ) -> None:
        """Cover paths of procfs and sysfs: the masked ones by nothing, others by a read-only clone.

        `own_network`: /proc/sys/net stays writable. `machine`: where the machine's root is mapped, all of procfs but
        its processes and the entries `left` is read-only.
        """
        flags = OWN_NETWORK * own_network | MACHINE * machine
        self.steps.append(("protect", tuple(masked), tuple(read_only), tuple(left), flags))

    def hosts(self, name: str, lines: str, *, keep: bool) -> None:
        """Cover /etc/hosts by a copy that also has `lines` and, unless it is empty, `name`.

        With `keep`, changes of what was there are written back after the command's end.
        """
        self.steps.append(("hosts", name, lines, int(keep)))

    def cover(
        self, path: str, contents: str, *, make: bool = False, required: bool = False
    ) -> None:
        """Cover a regular file by one in memory. A missing one stays missing, or is made with `make` if it can be.

        With `required`, it is a failure if nothing is covered.
        """
        self.steps.append(("cover", path, contents, COVER_MAKE * make | COVER_REQUIRED * required))

    def chdir(self, path: str, *, required: bool) -> None:
        """Change to a directory of the view, or to "/" if that fails and is not `required`."""
        self.steps.append(("chdir", path, int(required)))

    def session_keyring(self) -> None:
        """Leave the caller's session keyring for a new one."""
        self.steps.append(("session_keyring",))

    def restrict_capabilities(self, kept: int) -> None:
        """Drop all capabilities but those of the mask: in the section of the command, of both the command and init.

        In the section of the end it comes first: what the supervisor keeps while the view lives, which else is none.
        """
        self.steps.append(("restrict_capabilities", kept))

    def offer_namespaces(self) -> None:
        """Have the supervisor hold the namespaces that init made, so that commands can join the view."""
        self.steps.append(("offer_namespaces",))

    def session(self, *, with_pty: bool) -> None:
        """setsid(2); the view's terminal becomes the command's controlling terminal and standard streams."""
        self.steps.append(("session", int(with_pty)))

    def limit(self, resource: int, soft: int, hard: int, name: str) -> None:
        """setrlimit(2); `name` is for the failure."""
        self.steps.append(("limit", resource, soft, hard, name))

    def user(self, user: int, group: int, kind: int, kept: int, groups: Sequence[int]) -> None:
        """setgroups(2) as `kind` says (GROUPS_*), setresgid(2) and setresuid(2); drop all capabilities but `kept`."""
        numbers = b"".join(map(_u32, groups))
        self.steps.append(("user", user, group, kind, kept, numbers))

    def blocked(self, mask: int) -> None:
        """The command's signal mask: bit N - 1 is signal N."""
        self.steps.append(("blocked", mask))

    def ignored(self, mask: int) -> None:
        """The signals that the command ignores; all others have their default action."""
        self.steps.append(("ignored", mask))

    def standard(self, number: int, source: Slot) -> None:
        """Make a standard descriptor of the command a copy of a descriptor."""
        self.steps.append(("standard", number, source))

    def close_standard(self, mask: int) -> None:
        """Close standard descriptors: bit N is descriptor N."""
        self.steps.append(("close_standard", mask))

    def pass_on(self, slot: Slot) -> None:
        """Pass an inherited descriptor to the command, under its number."""
        self.steps.append(("pass", slot))

    def no_new_privs(self) -> None:
        """execve(2) of the command and its descendants grants no privileges (PR_SET_NO_NEW_PRIVS)."""
        self.steps.append(("no_new_privs",))

    def scope_sockets(self) -> None:
        """Keep the command from abstract sockets of processes outside the view, where the kernel can (Landlock)."""
        self.steps.append(("scope_sockets",))

    def seccomp(self, program: bytes) -> None:
        """Install a seccomp filter, as BPF instructions."""
        self.steps.append(("seccomp", program))

    def release(self, text: str, program: bytes) -> None:
        """Have the supervisor answer uname(2) with this release. `program`: a seccomp filter that asks about that."""
        self.steps.append(("release", text, program))

    def execute(
        self,
        argv: Sequence[str],
        env: Sequence[bytes],
        candidates: Sequence[str],
        *,
        with_sockets: bool,
    ) -> None:
        """execve(2) the first of `candidates` that exists and may be executed, as execvp(3) does.

        `with_sockets`: the value of LISTEN_PID in `env` becomes the command's process id (sd_listen_fds(3)).
        """
        self.steps.append(("exec", tuple(argv), tuple(env), tuple(candidates), int(with_sockets)))

    def wait_for(self, channel: Slot) -> None:
        """Wait for the byte by which the daemon says that all is in the upper."""
        self.steps.append(("await", channel))

    def out_of_memory(self, events: Slot) -> None:
        """Report the view as killed for its memory, if the file of a memory controller says so."""
        self.steps.append(("out_of_memory", events))

    def hint(self, reason: str) -> None:
        """Say why the view had no way outward, if its command has failed, and a program has looked for one."""
        self.steps.append(("hint", reason))

    def record_status(self, directory: Slot, name: str) -> None:
        """Write the command's exit status and the time into a file of a directory, if it was executed."""
        self.steps.append(("record_status", directory, name))

    def end_limit(self, directory: Slot, project: int) -> None:
        """End the limit of a project in the file system of a directory, which `hold` keeps open (quotactl(2))."""
        self.steps.append(("end_limit", directory, project))

    def remove(self, directory: Slot, name: str) -> None:
        """Remove a tree, if it is there."""
        self.steps.append(("remove", directory, name))

    def remove_if_empty(self, directory: Slot, name: str) -> None:
        """Remove a directory, if it is there and empty, from one that `hold` keeps open."""
        self.steps.append(("remove_if_empty", directory, name))

    def remove_opened(self, directory: Slot) -> None:
        """Remove a directory, whatever its name is by then. The descriptor is not one of O_PATH."""
        self.steps.append(("remove_opened", directory))

    def inherited(self) -> list[int]:
        """The numbers of the inherited descriptors."""
        found = (step[2] for step in self.steps if step[0] == "descriptor")
        return [number for number in found if isinstance(number, int)]

    def encode(self) -> bytes:
        """The bytes for `_supervisor`, in the machine's byte order.

        Raises:
          TooLarge, TooManyDescriptors: see there.
          ValueError: a string has a zero byte.
        """
        from overlaykit.namespace.calls import lowered

        slots: dict[Slot, int] = {}
        body = b"".join(_record(one, slots) for step in self.steps for one in lowered(step))
        size = len(MAGIC) + 8 + len(body)
        if len(slots) > MOST_SLOTS:
            raise TooManyDescriptors
        if size > LARGEST:
            raise TooLarge
        return MAGIC + _u32(VERSION) + _u32(size) + body


def check(steps: Iterable[Step]) -> None:
    """Whether the steps make sense together. Raises: BadPlan, which names the record."""
    checked = _Check()
    name: Any
    for number, (name, *arguments) in enumerate(steps, 1):
        if problem := checked.problem(name, arguments):
            raise BadPlan(f"record {number}: {name}: {problem}")
    if problem := checked.problem_of_all():
        raise BadPlan(problem)


class _Check:
    """What is known of a plan up to a step."""

    def __init__(self) -> None:
        self.section = ""
        self.seen: dict[str, int] = {}
        self.slots: dict[object, str] = {}
        self.numbers: set[int] = set()  # of inherited descriptors
        self.own_processes = False  # without which init would be one of the host's

    def problem(self, name: str, arguments: Sequence[Any]) -> str | None:
        """What is wrong with the next step."""
        _, signature, places = FORMS[name]
        seen = self.seen
        if name == "section":
            return self._problem_of_section(arguments[0])
        if not self.section or self.section not in places:
            return "the step has no place in this section"
        if "exec" in seen and self.section == "command":
            return "it comes after exec"
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1 and name in _ONCE:
            return "the step occurs twice"
        filled: object = None
        flags = 0
        for letter, argument in zip(signature, arguments, strict=True):
            problem = None
            if letter in _VALUES:
                holds, said = _VALUES[letter]
                problem = None if holds(argument) else said
            elif letter in "dc":
                problem = self._used(argument, name)
                if letter == "c":
                    self.slots[argument] = "consumed"
            elif letter == "m":
                filled = argument
            elif letter == "n":
                flags = argument
                most, said = _MOST[name]
                problem = None if argument <= most else said
            if problem:
                return problem
        if name in _SPECIAL and (problem := _SPECIAL[name](self, arguments)):
            return problem
        if filled is not None:
            return self._filled(filled, flags, name)
        return None

    def _problem_of_section(self, section: int) -> str | None:
        if section >= len(SECTIONS):
            return "there is no such section"
        if not self.section and section:
            return "the plan does not begin with the section of the plan"
        if self.section and section <= SECTIONS.index(self.section):
            return "the sections are not in order"
        self.section = SECTIONS[section]
        return None

    def _filled(self, slot: object, flags: int, name: str) -> str | None:
        """Fill a slot. "perhaps": an optional step may have filled it."""
        if name not in ("fresh", "clone"):
            flags = 0
        alternative = flags & UNLESS_FILLED
        if self.slots.get(slot) != ("perhaps" if alternative else None):
            return "the slot is no alternative's" if alternative else "the slot is filled already"
        made = "perhaps" if flags & ~UNLESS_FILLED else "made"
        self.slots[slot] = "inherited" if name == "descriptor" else made
        return None

    def _used(self, slot: object, name: str) -> str | None:
        state = self.slots.get(slot)
        if state is None or state == "consumed":
            return "the slot is not filled"
        if state == "perhaps" and name == "root":
            return "the slot may be empty"
        if state != "inherited" and self.section != "init":
            return "the slot holds no inherited descriptor"
        return None

    def problem_of_all(self) -> str | None:
        """What is wrong with the whole plan."""
        seen = self.seen
        if "exec" not in seen:
            return "there is no command"
        if ("report" in seen) == ("front" in seen):
            return "it has neither report nor front, or both"
        if "terminal" in seen and not ("front" in seen and "pty" in seen):
            return "its terminal has no front or no pty"
        if "bind" in seen and "attach_binds" not in seen:
            return "it attaches no binds"
        if not self.own_processes:
            return "it makes and joins no PID namespace"
        return None


def _of_namespaces(check: _Check, arguments: Sequence[Any]) -> str | None:
    check.own_processes |= check.section == "monitor" and bool(arguments[-1] & _NEW_PROCESSES)
    return None


def _of_descriptor(check: _Check, arguments: Sequence[Any]) -> str | None:
    if arguments[1] in check.numbers:
        return "the descriptor has two slots"
    check.numbers.add(arguments[1])
    return None


def _of_log(_: _Check, arguments: Sequence[Any]) -> str | None:
    if len(os.fsencode(arguments[3])) > _LONGEST_FILE_NAME:
        return "the name is none"
    return None if arguments[4] else "there is no limit"


def _of_session(check: _Check, arguments: Sequence[Any]) -> str | None:
    return "there is no terminal" if arguments[0] and "pty" not in check.seen else None


def _of_filter(_: _Check, arguments: Sequence[Any]) -> str | None:
    count, rest = divmod(len(arguments[-1]), _INSTRUCTION_BYTES)
    if rest or not count:
        return "the filter is no sequence of instructions"
    return None if count <= _MOST_INSTRUCTIONS else "the filter has too many instructions"


def _unless(problem: str, holds: Callable[[_Check, Sequence[Any]], bool]) -> _Special:
    return lambda check, arguments: None if holds(check, arguments) else problem


_SPECIAL: Final[dict[str, _Special]] = {
    "descriptor": _of_descriptor,
    "setns": _of_namespaces,
    "unshare": _of_namespaces,
    "connect": _unless(
        "there is no helper, or a request has another size",
        lambda check, arguments: "helper" in check.seen and len(arguments[1]) % REQUEST_BYTES == 0,
    ),
    "publish": _unless("it is no port", lambda _, arguments: arguments[1] > 0),
    "clone": _unless(
        "there is no such propagation", lambda _, arguments: arguments[4] in _PROPAGATIONS
    ),
    "bind": _unless(
        "it comes after attach_binds", lambda check, _: "attach_binds" not in check.seen
    ),
    "pty": _unless("there is no terminal", lambda check, _: "terminal" in check.seen),
    "session": _of_session,
    "log": _of_log,
    "record_status": _unless(
        "the name is none",
        lambda _, arguments: len(os.fsencode(arguments[1])) <= _LONGEST_FILE_NAME,
    ),
    "limit": _unless(
        "it is above the hard limit", lambda _, arguments: arguments[1] <= arguments[2]
    ),
    "user": _unless(
        "there are too many groups", lambda _, arguments: len(arguments[4]) <= 4 * _MOST_GROUPS
    ),
    "seccomp": _of_filter,
    "release": _of_filter,
}
"""What the letters do not say."""


def _record(step: Step, slots: dict[Slot, int]) -> bytes:
    name: Any
    name, *arguments = step
    code, signature = PRIMITIVES.get(name) or FORMS[name][:2]
    order = sys.byteorder
    record = code.to_bytes(2, order) + len(signature).to_bytes(2, order)
    for letter, argument in zip(signature, arguments, strict=True):
        record += _argument(letter, argument, slots)
    return record


def _argument(letter: str, argument: Any, slots: dict[Slot, int]) -> bytes:
    if letter in _INTEGERS:
        return _U32_OF_8 + argument.to_bytes(8, sys.byteorder)  # type: ignore[no-any-return]
    if letter in _SLOTS:
        return _U32_OF_4 + _u32(slots.setdefault(argument, len(slots)))
    if letter == "w":
        argument = b"".join(of.encode() + _argument(of, word, slots) for of, word in argument)
    elif letter not in "xf":
        argument = _strings((argument,) if letter in _STRINGS else argument)
    return _u32(len(argument)) + argument  # type: ignore[no-any-return]


def _strings(texts: Any) -> bytes:
    """Strings, all str or all bytes, each with a NUL after it."""
    if not texts:
        return b""
    joined: bytes
    joined = b"\0".join(texts) if type(texts[0]) is bytes else os.fsencode("\0".join(texts))
    if joined.count(b"\0") != len(texts) - 1:
        raise ValueError("embedded null byte")
    return joined + b"\0"


def _u32(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


_U32_OF_4: Final = _u32(4)
_U32_OF_8: Final = _u32(8)
