"""The operations of a generated program: one small class each, which can run it or write it as a line of shell.

`run` works in the current directory, the root of the view, and returns a result that can be compared between systems.
The operations on files that stay open are in `slots`.
"""

from __future__ import annotations

import errno
import mmap
import os
import shlex
import stat
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ..posix import acl
from ..posix.syscalls import Dirent, getdents64, renameat2
from .observation import Result, describe, look

Slots: TypeAlias = dict[int, int]
"""Held files: slot number to open descriptor."""

LONG_AGO = 1_000_000_000
"""Seconds since the epoch: the times in layers, so that a time set by the system differs."""


_PART = 80
"""Bytes, for three short names (getdents(2))."""


class Operation(Protocol):
    """One step of a program."""

    def run(self, slots: Slots) -> object: ...

    def shell(self) -> str: ...


def result_of(operation: Operation, slots: Slots) -> Result:
    """The operation's result, or the name of its errno."""
    try:
        return Result(None, operation.run(slots))
    except OSError as error:
        return Result(errno.errorcode[error.errno or 0], None)


def python_line(statement: str, *arguments: object) -> str:
    quoted = " ".join(shlex.quote(str(argument)) for argument in arguments)
    return f"python3 -c {shlex.quote(f'import os, sys; a = sys.argv[1:]; {statement}')} {quoted}"


@dataclass(frozen=True)
class Create:
    path: str

    def run(self, slots: Slots) -> object:
        return os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))

    def shell(self) -> str:
        return f"(set -C; : > {self.path})"


@dataclass(frozen=True)
class Write:
    """Truncate and write, with O_CREAT."""

    path: str
    text: str

    def run(self, slots: Slots) -> object:
        return _write(self.path, self.text, os.O_TRUNC)

    def shell(self) -> str:
        return f"printf {self.text} > {self.path}"


@dataclass(frozen=True)
class Append:
    path: str
    text: str

    def run(self, slots: Slots) -> object:
        return _write(self.path, self.text, os.O_APPEND)

    def shell(self) -> str:
        return f"printf {self.text} >> {self.path}"


def _write(path: str, text: str, flag: int) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | flag, 0o644)
    try:
        return os.write(fd, text.encode())
    finally:
        os.close(fd)


@dataclass(frozen=True)
class WriteMapped:
    """Change the last byte of a file through a shared mapping; an empty file gets one byte."""

    path: str
    byte: int

    def run(self, slots: Slots) -> object:
        fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        try:
            if os.fstat(fd).st_size == 0:
                os.ftruncate(fd, 1)
            with mmap.mmap(fd, 0) as memory:
                memory[-1] = self.byte
                memory.flush()
                return memory[:]
        finally:
            os.close(fd)

    def shell(self) -> str:
        statement = (
            "import mmap; f = open(a[0], 'r+b'); f.seek(0, 2) or f.truncate(1); "
            "m = mmap.mmap(f.fileno(), 0); m[-1] = int(a[1]); m.flush()"
        )
        return python_line(statement, self.path, self.byte)


@dataclass(frozen=True)
class Truncate:
    path: str
    length: int

    def run(self, slots: Slots) -> object:
        return os.truncate(self.path, self.length)

    def shell(self) -> str:
        return python_line("os.truncate(a[0], int(a[1]))", self.path, self.length)


@dataclass(frozen=True)
class Mkdir:
    path: str

    def run(self, slots: Slots) -> object:
        return os.mkdir(self.path, 0o755)

    def shell(self) -> str:
        return f"mkdir {self.path}"


@dataclass(frozen=True)
class Rmdir:
    path: str

    def run(self, slots: Slots) -> object:
        return os.rmdir(self.path)

    def shell(self) -> str:
        return f"rmdir {self.path}"


@dataclass(frozen=True)
class Unlink:
    path: str

    def run(self, slots: Slots) -> object:
        return os.unlink(self.path)

    def shell(self) -> str:
        return f"unlink {self.path}"


@dataclass(frozen=True)
class Rename:
    """`flags` of renameat2(2): 0, 1 (NOREPLACE) or 2 (EXCHANGE)."""

    old: str
    new: str
    flags: Literal[0, 1, 2] = 0

    def run(self, slots: Slots) -> object:
        return renameat2(self.old.encode(), self.new.encode(), self.flags)

    def shell(self) -> str:
        if self.flags == 0:  # mv(1) copies where rename(2) fails
            return python_line("os.rename(*a)", self.old, self.new)
        call = "ctypes.CDLL(None).renameat2(-100, a[0].encode(), -100, a[1].encode(), int(a[2]))"
        return python_line(f"import ctypes; print({call})", self.old, self.new, self.flags)


@dataclass(frozen=True)
class Link:
    old: str
    new: str

    def run(self, slots: Slots) -> object:
        return os.link(self.old, self.new, follow_symlinks=False)

    def shell(self) -> str:
        return f"ln -PT {self.old} {self.new}"


@dataclass(frozen=True)
class Symlink:
    target: str
    path: str

    def run(self, slots: Slots) -> object:
        return os.symlink(self.target, self.path)

    def shell(self) -> str:
        return f"ln -sT {self.target} {self.path}"


@dataclass(frozen=True)
class Mkfifo:
    path: str

    def run(self, slots: Slots) -> object:
        return os.mkfifo(self.path, 0o644)

    def shell(self) -> str:
        return f"mkfifo {self.path}"


@dataclass(frozen=True)
class Chmod:
    path: str
    mode: int

    def run(self, slots: Slots) -> object:
        return os.chmod(self.path, self.mode)

    def shell(self) -> str:
        return f"chmod {self.mode:04o} {self.path}"


@dataclass(frozen=True)
class Chown:
    path: str
    uid: int
    gid: int

    def run(self, slots: Slots) -> object:
        return os.lchown(self.path, self.uid, self.gid)

    def shell(self) -> str:
        return f"chown -h {self.uid}:{self.gid} {self.path}"


@dataclass(frozen=True)
class Touch:
    path: str
    seconds: int

    def run(self, slots: Slots) -> object:
        return os.utime(self.path, (self.seconds, self.seconds), follow_symlinks=False)

    def shell(self) -> str:
        return f"touch -chd @{self.seconds} {self.path}"


@dataclass(frozen=True)
class SetXattr:
    path: str
    name: str
    value: str

    def run(self, slots: Slots) -> object:
        return os.setxattr(self.path, self.name, self.value.encode())

    def shell(self) -> str:
        statement = "os.setxattr(a[0], a[1], a[2].encode())"
        return python_line(statement, self.path, self.name, self.value)


@dataclass(frozen=True)
class RemoveXattr:
    path: str
    name: str

    def run(self, slots: Slots) -> object:
        return os.removexattr(self.path, self.name)

    def shell(self) -> str:
        return python_line("os.removexattr(*a)", self.path, self.name)


@dataclass(frozen=True)
class SetAcl:
    """Give a user and the mask permissions in an ACL; `default`: in the default ACL of a directory."""

    path: str
    uid: int
    permissions: int
    default: bool

    def run(self, slots: Slots) -> object:
        return os.setxattr(self.path, self._name, self._value)

    def shell(self) -> str:
        statement = "os.setxattr(a[0], a[1], bytes.fromhex(a[2]))"
        return python_line(statement, self.path, self._name, self._value.hex())

    @property
    def _name(self) -> str:
        return acl.DEFAULT if self.default else acl.ACCESS

    @property
    def _value(self) -> bytes:
        return acl.acl(7, 5, 4, users={self.uid: self.permissions}, mask=self.permissions)


@dataclass(frozen=True)
class Mknod:
    """Make a character device, /dev/null's."""

    path: str

    def run(self, slots: Slots) -> object:
        return os.mknod(self.path, stat.S_IFCHR | 0o600, os.makedev(1, 3))

    def shell(self) -> str:
        return f"mknod -m 600 {self.path} c 1 3"


@dataclass(frozen=True)
class Read:
    path: str

    def run(self, slots: Slots) -> object:
        fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(fd, 1000)
        finally:
            os.close(fd)

    def shell(self) -> str:
        return f"cat {self.path}"


@dataclass(frozen=True)
class Stat:
    path: str

    def run(self, slots: Slots) -> object:
        return describe(os.lstat(self.path))

    def shell(self) -> str:
        return f"stat -c '%F %a %u:%g %s %h %y' {self.path}"


@dataclass(frozen=True)
class List:
    path: str

    def run(self, slots: Slots) -> object:
        return sorted(os.listdir(self.path))

    def shell(self) -> str:
        return f"ls -A {self.path}/"


@dataclass(frozen=True)
class ListInParts:
    """List a directory two or three names at a time, and seek back to each position."""

    path: str

    def run(self, slots: Slots) -> object:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            entries = _entries(fd)
            for number, entry in enumerate(entries):
                os.lseek(fd, entry.offset, os.SEEK_SET)
                if _entries(fd) != entries[number + 1 :]:
                    return f"other names after {entry.name!r} than before"
            return sorted(entry.name for entry in entries)
        finally:
            os.close(fd)

    def shell(self) -> str:
        return f"ls -aU {self.path}/"


def _entries(fd: int) -> list[Dirent]:
    entries: list[Dirent] = []
    while part := getdents64(fd, _PART):
        entries += part
    return entries


@dataclass(frozen=True)
class Look:
    """The whole tree, with contents."""

    def run(self, slots: Slots) -> object:
        return look(".")

    def shell(self) -> str:
        return "ls -lAR --time-style=+%s; find . -type f -exec head -v {} +"
