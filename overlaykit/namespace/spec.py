"""The description of a launch: the command, its surroundings, and the mount that becomes its root."""

from __future__ import annotations

import os

from overlaykit.namespace.confinement import Confinement
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from overlaykit.namespace.accounts import Account
    from overlaykit.namespace.binds import Bind
    from overlaykit.namespace.cgroups import Cgroups
    from overlaykit.namespace.contents import Cover, Data, Directory, Symlink
    from overlaykit.namespace.devices import Device
    from overlaykit.namespace.environment import Environment
    from overlaykit.namespace.names import Names
    from overlaykit.namespace.nested import Nested
    from overlaykit.namespace.ports import Port
    from overlaykit.namespace.tmpfs import Tmpfs
    from overlaykit.namespace.ulimits import Ulimit


NETWORKS: Final = ("auto", "private", "outbound", "host", "none")
"""A network namespace with only a loopback interface (`private`); with a way outward as well (`outbound`), or from its
first use on, if there can be one (`auto`); the host's; or one without published ports."""

_LONGEST_HOSTNAME: Final = 64
"""Bytes: uname(2)."""
_STANDARD: Final = range(3)


class Terminal(Record, kw_only=True):
    """A terminal (pty(7)) of the view, relayed to the caller's standard streams."""

    interactive: bool
    """Whether the caller's standard input is its input; it has none otherwise."""


class LaunchSpec(Record, kw_only=True):
    """A command and its surroundings.

    Raises:
      ValueError: a field has a value that no launch can use; it names the field.
      TargetTwice: two `binds` have one target.
    """

    argv: tuple[str, ...]
    """The command and its arguments; a command without a slash is looked up along the PATH of `env`, in the view."""
    env: Environment
    """The whole environment."""
    cwd: str = "/"
    """The working directory, absolute, in the view."""
    cwd_required: bool = False
    """Whether a missing `cwd` is an error; else "/" is used in its place."""
    hostname: str = "overlaykit"
    """Not used with the network "host"."""
    network: str = "private"
    """One of NETWORKS."""
    network_namespace: int | None = None
    """A descriptor of the view's own network namespace; None: it gets a new one, unless the network is "host"."""
    names: Names | None = None
    """More names of the view and of others, and who resolves names."""
    resolver: str | None = None
    """The contents of /etc/resolv.conf; None: the file of the layers."""
    binds: tuple[Bind, ...] = ()
    """In any order: a target below another one is mounted after it."""
    tmpfs: tuple[Tmpfs, ...] = ()
    devices: tuple[Device, ...] = ()
    """More nodes in /dev than the usual ones."""
    shm_size: str | None = None
    """The size of /dev/shm, as tmpfs(5) takes it."""
    shared: frozenset[str] = frozenset()
    """The namespaces that are the host's, beside `network`: of `sharing.NAMES`."""
    time_offsets: str | None = None
    """Of the clocks in a time namespace of its own, as time_namespaces(7) has them; None: time is the host's."""
    directories: tuple[Directory, ...] = ()
    symlinks: tuple[Symlink, ...] = ()
    data: tuple[Data, ...] = ()
    covers: tuple[Cover, ...] = ()
    processors: frozenset[int] = frozenset()
    """Those that the view's processes run on; none: those of the caller."""
    release: str | None = None
    """What uname(2) tells the command and its descendants; None: the kernel's."""
    nested: Nested | None = None
    """A root for programs that serve the view's files."""
    account: Account | None = None
    """The user of the command; None: root of the view."""
    ulimits: tuple[Ulimit, ...] = ()
    new_session: bool = False
    """Whether the command leaves the caller's session, and with it the caller's terminal."""
    grace: int | None = None
    """Milliseconds from SIGTERM, which is then for every process, to SIGKILL; None: SIGTERM is as any other signal."""
    json_status: int | None = None
    """A descriptor into which the supervisor writes what bubblewrap writes with --json-status-fd."""
    ports: tuple[Port, ...] = ()
    descriptors: tuple[int, ...] = ()
    """Open descriptors that the command inherits under the same numbers, beside the standard ones."""
    redirected: Mapping[int, int] = {}
    """Standard descriptors (0 to 2) of the command: each a copy of a descriptor, from 3 on, of the caller."""
    terminal: Terminal | None = None
    """A terminal of the view's own; None: the command gets the caller's streams."""
    umask: int | None = None
    """None: the umask of the caller."""
    keep: bool = False
    """Whether changes outlive the command."""
    confinement: Confinement = Confinement()
    cgroups: Cgroups | None = None
    """The control groups that the view joins; None: it stays in the caller's."""
    hidden: tuple[str, ...] = ()
    """Absolute paths in the view that an empty read-only place covers, if they exist."""
    writable: tuple[str, ...] = ()
    """Absolute paths of directories in the view, without symbolic links, outside of which its files are read-only.

    Without any, all is writable."""
    abstract_sockets: bool = False
    """Whether the command reaches abstract sockets (unix(7)) of others, with the network "host"."""

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("argv: no command given")
        for word in self.argv:
            if "\0" in word:
                raise ValueError(f"argv: {word!r} holds a zero byte")
        for entry in self.env:
            if b"\0" in entry:
                raise ValueError(f"env: {entry!r} holds a zero byte")
        if not os.path.isabs(self.cwd) or "\0" in self.cwd:
            raise ValueError(f"cwd: {self.cwd!r} is not an absolute path")
        if not 0 < len(os.fsencode(self.hostname)) <= _LONGEST_HOSTNAME:
            raise ValueError(f"hostname: {self.hostname!r} has not 1 to {_LONGEST_HOSTNAME} bytes")
        if "\0" in self.hostname:
            raise ValueError(f"hostname: {self.hostname!r} holds a zero byte")
        if self.network not in NETWORKS:
            raise ValueError(f"network: {self.network!r} is none of {', '.join(NETWORKS)}")
        for path in self.hidden:
            if not os.path.isabs(path) or "\0" in path:
                raise ValueError(f"hidden: {path!r} is not an absolute path")
        for descriptor in self.descriptors:
            if descriptor < 0:
                raise ValueError(f"descriptors: {descriptor} is not a descriptor")
        for standard, source in self.redirected.items():
            if standard not in _STANDARD or source < len(_STANDARD):
                raise ValueError(f"redirected: {source} cannot become {standard}")
        if self.umask is not None and not 0 <= self.umask <= 0o777:
            raise ValueError(f"umask: {self.umask:#o} is not 0 to 0o777")
        if self.binds:
            from overlaykit.namespace import binds

            binds.check(self.binds)


class RootMount(Record, kw_only=True):
    """The detached mount that becomes the root directory, and the user namespace that owns it."""

    mount: int
    user_namespace: int | None = None
    """A descriptor of the user namespace, or the pidfd of a process in it (setns(2) takes either).

    None: the caller has the capabilities itself."""

    def enter(self) -> int:
        """Enter the user namespace; a descriptor of the root. Requires: a new child."""
        if self.user_namespace is not None:
            from overlaykit import _native

            _native.setns(self.user_namespace, _native.CLONE_NEWUSER)
        return self.mount


class Caller(Record, kw_only=True):
    """Attributes of the calling process that the command inherits, from before the launcher changed its own."""

    pid: int
    umask: int
    blocked: int
    """The signal mask (`signals.mask`)."""
    ignored: int
    """The ignored signals."""
    closed: frozenset[int] = frozenset()
    """The standard descriptors that the command does not get."""
    console: str | None = None
    """The terminal of standard input."""


class Reporting(Record, kw_only=True):
    """The descriptors that connect the supervisor to a parent, which waits for its status."""

    parent: int
    """A pidfd: the view ends with the parent."""
    status_write: int
    """The write end of the status pipe; see `failure`."""
    reap_read: int
    """Readable once the parent has a pidfd of init, so that init may be reaped."""
    hold: tuple[int, ...] = ()
    """Descriptors that stay open until all has ended, also if the parent is killed (locks)."""


class End(Record, kw_only=True):
    """What the supervisor does after the view has ended."""

    written: int | None = None
    """A channel on which the daemon sends a byte once all changes are in the upper; None: nothing is waited for."""
    limits: tuple[tuple[int, int], ...] = ()
    """Limits that end (`projects`): a descriptor of a directory in the file system, and the project."""
    remove: tuple[tuple[int, str], ...] = ()
    """Trees: a descriptor of the directory, and the name in it."""
    remove_if_empty: tuple[tuple[int, str], ...] = ()
    remove_opened: int | None = None
    """A descriptor of a directory that is removed, whatever its name is by then."""
    status: tuple[int, str] | None = None
    """The directory and the name of a file for the exit status of the command: "STATUS NANOSECONDS-SINCE-THE-EPOCH"."""


class Log(Record, kw_only=True):
    """Where the output of a detached command goes."""

    stdout: int
    """The read end of the pipe that is the command's standard output."""
    stderr: int
    directory: int
    name: str
    """The file in `directory`."""
    limit: int
    """Bytes; the file is renamed to NAME.1 where it would have more."""


class Alone(Record, kw_only=True):
    """A supervisor without a parent that waits for it."""

    report: tuple[str, ...]
    """The program that is executed if a step fails, and its arguments. Four are added: the failure's name (`failure`),
    the errno, the subject, and "before" or "after": whether the command was executed."""
    env: tuple[bytes, ...]
    """The environment of that program."""
    abort_on: tuple[int, ...] = ()
    """Descriptors: the view is killed once one is readable."""
    hold: tuple[int, ...] = ()
    """Descriptors that stay open until all has ended (locks)."""
    hold_until_started: tuple[int, ...] = ()
    """Descriptors (locks) that stay open until the command runs and the supervisor can be looked into by procfs."""
    end: End = End()
    announce: int | None = None
    """A pipe that gets a byte once the command is executed; the supervisor then leaves standard error."""
    log: Log | None = None
    input: int | None = None
    """A write end of the pipe that is the input of a detached command; see `overlaykit.views.attaching`."""
