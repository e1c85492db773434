"""The plan that native/guest_init.c carries out: its steps, and its bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from errno import EBADF, EEXIST, ENOENT
from typing import Final

PATH = "plan"
"""The plan's place in the initramfs."""

_NUMBERS: Final = {
    "write": 1,
    "open": 2,
    "close": 3,
    "dup2": 33,
    "chdir": 80,
    "mkdir": 83,
    "symlink": 88,
    "chmod": 90,
    "chroot": 161,
    "mount": 165,
    "sethostname": 170,
    "inotify_add_watch": 254,
    "inotify_init1": 294,
    "finit_module": 313,
}
"""System calls of x86_64 (asm/unistd_64.h): QEMU emulates no other processor."""
_OPENED: Final = 3
"""The descriptor that a call returns: the first after the standard ones."""
_IN_CREATE: Final = 0x100
"""sys/inotify.h"""
_MS_MOVE: Final = 8192
"""sys/mount.h"""
_STDOUT: Final = 1


class Plan:
    """Steps in their order. A method adds the system calls of its name."""

    def __init__(self) -> None:
        self._words: list[str] = []

    def module(self, path: str) -> None:
        """Load a module, unless it is loaded."""
        self._call("module", path, "open", path, os.O_RDONLY)
        self._call("module", path, "finit_module", _OPENED, "", 0, ignored=EEXIST)
        self._call("module", path, "close", _OPENED)

    def wait(self, path: str) -> None:
        """Wait for a device node: the kernel makes it some time after its driver is loaded."""
        self._call("wait", path, "inotify_init1", 0)
        self._call("wait", path, "inotify_add_watch", _OPENED, os.path.dirname(path), _IN_CREATE)
        self._add("until", path)
        self._call("wait", path, "close", _OPENED)

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._call("directory", path, "mkdir", path, mode, ignored=EEXIST)
        self._call("directory", path, "chmod", path, mode)

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
        self._call("status", path, "open", path, os.O_RDWR | os.O_CLOEXEC)
        self._call("status", path, "dup2", _OPENED, _STDOUT)
        self._call("status", path, "close", _OPENED)

    def setting(self, path: str, value: str) -> None:
        """Write to a file of sysfs, if this kernel has it."""
        self._call("setting", path, "open", path, os.O_WRONLY, ignored=ENOENT)
        self._call("setting", path, "write", _OPENED, value, len(value), ignored=EBADF)
        self._call("setting", path, "close", _OPENED, ignored=EBADF)

    def hostname(self, name: str) -> None:
        self._call("hostname", name, "sethostname", name, len(os.fsencode(name)))

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link, unless something is there."""
        self._call("link", path, "symlink", target, path, ignored=EEXIST)

    def raise_interface(self, name: str, *address_and_netmask: str) -> None:
        self._add("network", name, *address_and_netmask)

    def session(self, *words: str) -> None:
        """The last step: the command of a view, as native/guest_session.c has its words."""
        self._add("session", *words)

    def run(self, program: Sequence[str]) -> None:
        """The last step."""
        self._add("run", *program)

    def encoded(self) -> bytes:
        """The bytes of the file.

        Raises ValueError for a word that holds a NUL.
        """
        return encode(self._words)

    def _call(
        self, step: str, word: str, name: str, *arguments: int | str, ignored: int = 0
    ) -> None:
        """Add a system call. `step` and `word` are for its failure, unless that is the errno `ignored`."""
        values = (f"n{one}" if isinstance(one, int) else f"s{one}" for one in arguments)
        self._add(step, word, str(_NUMBERS[name]), str(ignored), *values)

    def _add(self, step: str, *words: str) -> None:
        self._words += (step, str(len(words)), *words)


def encode(words: Iterable[str]) -> bytes:
    """The words, each with a NUL after it."""
    encoded = [word.encode(errors="surrogateescape") for word in words]
    if any(b"\0" in word for word in encoded):
        raise ValueError("a word of a plan holds a NUL")
    return b"".join(word + b"\0" for word in encoded)
