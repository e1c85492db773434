"""The few words that the table's entries are written in."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from . import syscalls

T = TypeVar("T")

_COARSE: Final = 5
"""The clock that files' times are read from: CLOCK_REALTIME_COARSE of linux/time.h."""

ALICE = 4001
BOB = 4002
"""Two uids (and gids) that own nothing on this machine."""


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """The block has to fail with one of these errno numbers."""
    wanted = "/".join(errno.errorcode[number] for number in numbers)
    got = "not refused"
    try:
        yield
    except OSError as error:
        if error.errno in numbers:
            return
        got = errno.errorcode.get(error.errno or 0, str(error))
    raise AssertionError(f"{got}, not {wanted}")


def unless_refused(number: int, call: Callable[[], T]) -> T | None:
    """What `call` returned; None where the system says with this errno that it has no such thing."""
    try:
        return call()
    except OSError as error:
        if error.errno != number:
            raise
        return None


def put(path: str | bytes, content: bytes, mode: int = 0o644) -> None:
    """Write the whole file; made if missing."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def get(path: str | bytes) -> bytes:
    """Read the whole file."""
    with open(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def opened(path: str | bytes, flags: int, mode: int = 0o644) -> Iterator[int]:
    """Hold a descriptor for the block."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def mode_of(path: str | bytes) -> int:
    """The permission bits, set-id bits and sticky bit of the file itself."""
    return os.lstat(path).st_mode & 0o7777


def ino_of(path: str | bytes) -> int:
    return os.lstat(path).st_ino


def names(path: str | bytes = ".") -> list[str]:
    return sorted(os.fsdecode(name) for name in os.listdir(path))


def forget() -> None:
    """Let the kernel drop the names, inodes and pages that it can: a remount shrinks its caches (super_operations)."""
    mount = os.fsencode(os.path.dirname(os.getcwd()))
    with contextlib.suppress(PermissionError):  # on a plain directory, which is the disk's own
        syscalls.mount(b"none", mount, None, syscalls.MS_REMOUNT)


def let_the_clock_go_on() -> None:
    """Wait until what changes now gets another time than before: two ticks of the kernel's clock for files."""
    start = time.clock_gettime_ns(_COARSE)
    tick = time.clock_getres(_COARSE)
    while time.clock_gettime_ns(_COARSE) < start + 2e9 * tick:
        os.sched_yield()


def in_child(action: Callable[[], object]) -> None:
    """Run `action` in a process of its own; its failure is ours."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receive)
        try:
            action()
        except BaseException:
            os.write(send, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(0)
    os.close(send)
    with open(receive, "rb") as pipe:
        failure = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert not failure, f"in a child process: {failure.decode()}"
    assert status == 0, f"child process ended with status {status}"


def as_user(uid: int, action: Callable[[], object], *, groups: Sequence[int] = ()) -> None:
    """Run `action` in a process of that uid (and gid), without capabilities."""

    def act() -> None:
        os.setgroups(groups)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        action()

    in_child(act)
