"""What a drawn program does: one small class per operation, which can be run and can be written as a line of shell.

`run` acts in the current directory, the root of the view, and gives a result that means the same on every
system. Slots are descriptors held open from one operation to the next; in the shell they are its numbered redirections.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ..posix.syscalls import renameat2
from .observation import Result, describe, look

Slots: TypeAlias = dict[int, int]
"""Held files: slot number to open descriptor."""

FIRST_SHELL_FD = 5
LONG_AGO = 1_000_000_000
"""Seconds since the epoch: the time of everything in a layer, so that a time set by the system stands out."""


class Operation(Protocol):
    """One step of a program."""

    def run(self, slots: Slots) -> object: ...

    def shell(self) -> str: ...


def result_of(operation: Operation, slots: Slots) -> Result:
    """What the operation gave, or the name of the errno it was refused with."""
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
    """Truncate and write; made if missing."""

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
    """`flags` as renameat2(2) takes them: 0, 1 (NOREPLACE) or 2 (EXCHANGE)."""

    old: str
    new: str
    flags: Literal[0, 1, 2] = 0

    def run(self, slots: Slots) -> object:
        return renameat2(self.old.encode(), self.new.encode(), self.flags)

    def shell(self) -> str:
        if self.flags == 0:  # mv(1) would copy where rename(2) is refused
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
class Look:
    """Everything there is, with contents."""

    def run(self, slots: Slots) -> object:
        return look(".")

    def shell(self) -> str:
        return "ls -lAR --time-style=+%s; find . -type f -exec head -v {} +"


@dataclass(frozen=True)
class Hold:
    """Open a file in a slot, as the shell's redirection of that name does."""

    slot: int
    path: str
    how: Literal["<", "<>", ">", ">>"]

    def run(self, slots: Slots) -> object:
        flags = {
            "<": os.O_RDONLY,
            "<>": os.O_RDWR | os.O_CREAT,
            ">": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
            ">>": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
        }[self.how]
        fd = os.open(self.path, flags | os.O_NONBLOCK, 0o644)
        if (old := slots.pop(self.slot, None)) is not None:
            os.close(old)
        slots[self.slot] = fd
        return None

    def shell(self) -> str:
        return f"exec {FIRST_SHELL_FD + self.slot}{self.how}{self.path}"


def _held(slots: Slots, slot: int) -> int:
    if slot not in slots:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return slots[slot]


@dataclass(frozen=True)
class ReadHeld:
    slot: int

    def run(self, slots: Slots) -> object:
        fd = _held(slots, self.slot)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return sorted(os.listdir(fd))
        return os.pread(fd, 1000, 0)

    def shell(self) -> str:
        return python_line("print(os.pread(int(a[0]), 1000, 0))", FIRST_SHELL_FD + self.slot)


@dataclass(frozen=True)
class WriteHeld:
    slot: int
    text: str

    def run(self, slots: Slots) -> object:
        return os.write(_held(slots, self.slot), self.text.encode())

    def shell(self) -> str:
        return f"printf {self.text} >&{FIRST_SHELL_FD + self.slot}"


@dataclass(frozen=True)
class TruncateHeld:
    slot: int
    length: int

    def run(self, slots: Slots) -> object:
        return os.ftruncate(_held(slots, self.slot), self.length)

    def shell(self) -> str:
        statement = "os.ftruncate(int(a[0]), int(a[1]))"
        return python_line(statement, FIRST_SHELL_FD + self.slot, self.length)


@dataclass(frozen=True)
class ChmodHeld:
    slot: int
    mode: int

    def run(self, slots: Slots) -> object:
        return os.fchmod(_held(slots, self.slot), self.mode)

    def shell(self) -> str:
        statement = "os.fchmod(int(a[0]), int(a[1]))"
        return python_line(statement, FIRST_SHELL_FD + self.slot, self.mode)


@dataclass(frozen=True)
class StatHeld:
    slot: int

    def run(self, slots: Slots) -> object:
        return describe(os.fstat(_held(slots, self.slot)))

    def shell(self) -> str:
        return python_line("print(os.fstat(int(a[0])))", FIRST_SHELL_FD + self.slot)


@dataclass(frozen=True)
class SameFile:
    """Is the held file the one that the path names?"""

    slot: int
    path: str

    def run(self, slots: Slots) -> object:
        return os.fstat(_held(slots, self.slot)).st_ino == os.lstat(self.path).st_ino

    def shell(self) -> str:
        statement = "print(os.fstat(int(a[0])).st_ino == os.lstat(a[1]).st_ino)"
        return python_line(statement, FIRST_SHELL_FD + self.slot, self.path)


@dataclass(frozen=True)
class Lock:
    """flock(2), exclusive, without waiting."""

    slot: int

    def run(self, slots: Slots) -> object:
        return fcntl.flock(_held(slots, self.slot), fcntl.LOCK_EX | fcntl.LOCK_NB)

    def shell(self) -> str:
        return f"flock -n {FIRST_SHELL_FD + self.slot}"


@dataclass(frozen=True)
class Release:
    """Close a slot."""

    slot: int

    def run(self, slots: Slots) -> object:
        fd = _held(slots, self.slot)
        del slots[self.slot]
        return os.close(fd)

    def shell(self) -> str:
        return f"exec {FIRST_SHELL_FD + self.slot}>&-"
