"""Operations on files that stay open between operations, each in a numbered slot.

In the shell script a slot is a numbered redirection.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from dataclasses import dataclass
from typing import Literal

from .observation import describe
from .operations import Slots, python_line

FIRST_SHELL_FD = 5


@dataclass(frozen=True)
class Hold:
    """Open a file in a slot, as the shell does for the redirection `how`."""

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
class ChownHeld:
    slot: int
    uid: int
    gid: int

    def run(self, slots: Slots) -> object:
        return os.fchown(_held(slots, self.slot), self.uid, self.gid)

    def shell(self) -> str:
        statement = "os.fchown(*map(int, a))"
        return python_line(statement, FIRST_SHELL_FD + self.slot, self.uid, self.gid)


@dataclass(frozen=True)
class TouchHeld:
    slot: int
    seconds: int

    def run(self, slots: Slots) -> object:
        return os.utime(_held(slots, self.slot), (self.seconds, self.seconds))

    def shell(self) -> str:
        statement = "os.utime(int(a[0]), (int(a[1]), int(a[1])))"
        return python_line(statement, FIRST_SHELL_FD + self.slot, self.seconds)


@dataclass(frozen=True)
class SetXattrHeld:
    slot: int
    name: str
    value: str

    def run(self, slots: Slots) -> object:
        return os.setxattr(_held(slots, self.slot), self.name, self.value.encode())

    def shell(self) -> str:
        statement = "os.setxattr(int(a[0]), a[1], a[2].encode())"
        return python_line(statement, FIRST_SHELL_FD + self.slot, self.name, self.value)


@dataclass(frozen=True)
class RemoveXattrHeld:
    slot: int
    name: str

    def run(self, slots: Slots) -> object:
        return os.removexattr(_held(slots, self.slot), self.name)

    def shell(self) -> str:
        statement = "os.removexattr(int(a[0]), a[1])"
        return python_line(statement, FIRST_SHELL_FD + self.slot, self.name)


@dataclass(frozen=True)
class ReadMapped:
    """Read the held file through a private mapping."""

    slot: int

    def run(self, slots: Slots) -> object:
        fd = _held(slots, self.slot)
        if os.fstat(fd).st_size == 0:
            return b""  # mmap(2) fails for an empty file
        with mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as memory:
            return memory[:]

    def shell(self) -> str:
        statement = "print(mmap.mmap(int(a[0]), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)[:])"
        return python_line(f"import mmap; {statement}", FIRST_SHELL_FD + self.slot)


@dataclass(frozen=True)
class SyncHeld:
    slot: int

    def run(self, slots: Slots) -> object:
        return os.fsync(_held(slots, self.slot))

    def shell(self) -> str:
        return python_line("os.fsync(int(a[0]))", FIRST_SHELL_FD + self.slot)


@dataclass(frozen=True)
class StatHeld:
    slot: int

    def run(self, slots: Slots) -> object:
        return describe(os.fstat(_held(slots, self.slot)))

    def shell(self) -> str:
        return python_line("print(os.fstat(int(a[0])))", FIRST_SHELL_FD + self.slot)


@dataclass(frozen=True)
class SameFile:
    """Whether the held file is the one at the path."""

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
