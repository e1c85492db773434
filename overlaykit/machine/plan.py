"""The plan that native/guest_init.c carries out: its steps, and its bytes, which are those of a view's plan."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from errno import EEXIST, ENOENT
from typing import Any, Final

from overlaykit import _native
from overlaykit.namespace import plan
from overlaykit.namespace.calls import call, close, of, terminal
from overlaykit.namespace.plan import FILLED, GROUPS_SET

PATH = "plan"
"""The plan's place in the initramfs."""

_HERE: Final = _native.AT_FDCWD
_OPENED: Final = "opened"
"""The slot of what a step opens."""
_F_SETFL: Final = 4
_IN_CREATE: Final = 0x100
"""sys/inotify.h"""
_MS_MOVE: Final = 8192
"""sys/mount.h"""
_SIOCSIFADDR: Final = 0x8916
_SIOCSIFNETMASK: Final = 0x891C
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_STDOUT: Final = 1
_ALL: Final = (1 << 64) - 1
"""Each capability."""


class Plan:
    """Steps in their order. A method adds the system calls of its name."""

    def __init__(self) -> None:
        self._plan: Final = plan.Plan()
        self._plan.section("init")

    def module(self, path: str) -> None:
        """Load a module, unless it is loaded."""
        self._open("module", path)
        self._call("module", path, "finit_module", of(_OPENED), "", 0, ignored=EEXIST)
        self._close("module")

    def wait(self, path: str) -> None:
        """Wait for a device node: the kernel makes it some time after its driver is loaded."""
        self._call("wait", path, "inotify_init1", os.O_CLOEXEC, slot=_OPENED, becomes=FILLED)
        directory = os.path.dirname(path)
        self._call("wait", path, "inotify_add_watch", of(_OPENED), directory, _IN_CREATE)
        self._add("until", _OPENED, path)
        self._close("wait")

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._call("directory", path, "mkdirat", _HERE, path, mode, ignored=EEXIST)
        self._call("directory", path, "fchmodat", _HERE, path, mode)

    def mount(
        self, target: str, kind: str, source: str = "none", flags: int = 0, data: str = ""
    ) -> None:
        self._call("mount", target, "mount", source, target, kind, flags, data)

    def root(self, path: str) -> None:
        """Move a mount over the initramfs, which cannot be the argument of pivot_root(2)."""
        self._call("root", path, "chdir", path)
        self._call("root", path, "mount", ".", "/", 0, _MS_MOVE, 0)
        self._call("root", path, "chroot", ".")
        self._call("root", path, "chdir", "/")

    def status(self, path: str) -> None:
        """Have a device in place of standard output; it is read as well, where there is a session."""
        self._open("status", path, os.O_RDWR)
        self._call("status", path, "dup3", of(_OPENED), _STDOUT, 0)
        self._close("status")

    def say(self, line: str) -> None:
        """Write a line to standard output."""
        self._call("say", line, "write", _STDOUT, f"{line}\n", len(line) + 1)

    def sync(self) -> None:
        """Write all that is in memory to the disks."""
        self._call("sync", "", "sync")

    def setting(self, path: str, value: str) -> None:
        """Write to a file of sysfs, if this kernel has it."""
        self._open("setting", path, os.O_WRONLY, ignored=ENOENT)
        self._call("setting", path, "write", of(_OPENED), value, len(value))
        self._close("setting")

    def hostname(self, name: str) -> None:
        self._call("hostname", name, "sethostname", name, len(os.fsencode(name)))

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link, unless something is there."""
        self._call("link", path, "symlinkat", target, _HERE, path, ignored=EEXIST)

    def raise_interface(self, name: str, *address_and_netmask: str) -> None:
        """Raise an interface, with an address and a netmask or as it is (the loopback device)."""
        kind = socket.SOCK_DGRAM | os.O_CLOEXEC
        how: dict[str, Any] = {"slot": _OPENED, "becomes": FILLED}
        self._call("network", name, "socket", socket.AF_INET, kind, 0, **how)
        requests = [
            (number, struct.pack("=HH4s16x", socket.AF_INET, 0, socket.inet_aton(address)))
            for number, address in zip(
                (_SIOCSIFADDR, _SIOCSIFNETMASK), address_and_netmask, strict=False
            )
        ]
        for number, value in (*requests, (_SIOCSIFFLAGS, struct.pack("=H22x", _IFF_UP))):
            request = struct.pack("16s24s", name.encode(), value)
            self._call("network", name, "ioctl", of(_OPENED), number, request)
        self._close("network")

    def terminal(self, owner: int) -> None:
        """Make a terminal for `session`."""
        self._plan.steps += terminal(owner)

    def session(self, out: str, err: str, given: str, *, owner: int, keeps: bool) -> None:
        """The last step: the command of a view, by the ports of its streams (native/guest_session.c).

        `owner`: of the streams; `keeps`: whether the disk outlives the guest. The command follows: `command`.
        """
        for slot, path, flags in (
            ("out", out, os.O_WRONLY | os.O_NONBLOCK),
            ("err", err, os.O_WRONLY | os.O_NONBLOCK),
            ("in", given, os.O_RDWR),
        ):
            flags |= os.O_CLOEXEC | os.O_NOCTTY
            how: dict[str, Any] = {"slot": slot, "becomes": FILLED}
            self._call("session", path, "openat", _HERE, path, flags, **how)
        # A write blocks until the port is connected, which the host does in the order of the ports; without it a read
        # would find the end of file.
        self._call("session", given, "write", of("in"), b"\n", 1)
        self._call("session", given, "fcntl", of("in"), _F_SETFL, os.O_NONBLOCK)
        self._add("guest_session", "master", "slave", int(keeps), "out", "err", "in", owner)

    def command(
        self,
        argv: Sequence[str],
        env: Sequence[bytes],
        candidates: Sequence[str],
        *,
        user: int,
        group: int,
        groups: Sequence[int],
        umask: int,
        directory: str,
        required: bool,
        with_terminal: bool,
    ) -> None:
        made = self._plan
        made.section("command")
        made.ignored(0)
        made.blocked(0)
        made.session(with_pty=with_terminal)
        made.umask(umask)
        made.user(user, group, GROUPS_SET, _ALL, groups)
        made.chdir(directory, required=required)
        made.execute(argv, env, candidates, with_sockets=False)

    def run(self, program: Sequence[str]) -> None:
        """The last step."""
        self._add("run", tuple(program))

    def encoded(self) -> bytes:
        """The bytes of the file.

        Raises ValueError for a word that holds a NUL; plan.TooLarge.
        """
        return self._plan.encode()

    def _open(self, step: str, path: str, flags: int = os.O_RDONLY, ignored: int = 0) -> None:
        flags |= os.O_CLOEXEC
        how: dict[str, Any] = {"slot": _OPENED, "becomes": FILLED, "ignored": ignored}
        self._call(step, path, "openat", _HERE, path, flags, **how)

    def _close(self, step: str) -> None:
        self._plan.steps.append(close(_OPENED, step))

    def _call(self, step: str, word: str, name: str, *words: Any, **how: Any) -> None:
        """Add a system call. `step` and `word` are for its failure, unless that is the errno `ignored`."""
        self._plan.steps.append(call(name, *words, failure=step, subject=word, **how))

    def _add(self, *step: Any) -> None:
        self._plan.steps.append(step)
