"""System calls that tests need and Python 3.11 lacks, through ctypes.

Not `overlaykit._native`, so that the tests share no code with the product. Each function has the kernel's name and
raises `OSError` with the call's errno; constants are from linux/mount.h, linux/sched.h,
linux/fs.h and fcntl.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_RDONLY = 0x1
MS_REMOUNT = 0x20
MS_LAZYTIME = 1 << 25
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_THP_DISABLE = 41
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_GETDENTS64 = {"x86_64": 217, "aarch64": 61}[os.uname().machine]


def _check(result: int, *names: bytes) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *(os.fsdecode(name) for name in names[:1]))
    return result


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind))


def prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def execve(path: str, arguments: list[bytes], environment: list[bytes]) -> None:
    """Unlike in os.execve, entries of the environment may repeat a name, or have none."""
    vectors = ((ctypes.c_char_p * (len(one) + 1))(*one) for one in (arguments, environment))
    _check(_libc.execve(os.fsencode(path), *vectors), os.fsencode(path))


def mount(source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes = b"") -> None:
    _check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), data or None), target)


def umount2(target: bytes, flags: int = 0) -> None:
    _check(_libc.umount2(target, flags), target)


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    _check(_libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags), old)


def access(path: bytes, mode: int) -> None:
    _check(_libc.access(path, mode), path)


def syncfs(fd: int) -> None:
    _check(_libc.syncfs(fd))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _check(_libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


class Dirent(NamedTuple):
    """One record of getdents64(2)."""

    name: bytes
    ino: int
    kind: int
    """d_type: a DT_* constant, the file type bits of st_mode shifted right by twelve."""
    offset: int
    """d_off: the position for lseek(2) that continues after this record."""


def getdents64(fd: int, size: int = 32768) -> list[Dirent]:
    """Read one buffer of directory entries; empty at the end."""
    buffer = ctypes.create_string_buffer(size)
    length = _check(_libc.syscall(_SYS_GETDENTS64, fd, buffer, size))
    return list(_parse_dirents(buffer.raw[:length]))


def _parse_dirents(data: bytes) -> Iterator[Dirent]:
    at = 0
    while at < len(data):
        ino, offset, length, kind = struct.unpack_from("=QqHB", data, at)
        name = data[at + 19 : at + length].split(b"\0", 1)[0]
        yield Dirent(name, ino, kind, offset)
        at += length
