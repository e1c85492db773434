"""Descriptors: those a program inherits and those a command gets; poll(2)."""

from __future__ import annotations

import fcntl
import os
import select
import stat

from overlaykit import attributes
from overlaykit.errors import Error
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

FIRST: Final = 3
"""The first descriptor after the standard ones."""

_NAMESPACES: Final = 0x6E73_6673
"""NSFS_MAGIC (linux/magic.h): fstat(2) calls a namespace a regular file."""

_TERMINALS: Final = frozenset({4, 5, *range(136, 144)})
_MEMORY: Final = 1
_HARMLESS_MEMORY: Final = frozenset({3, 5, 7, 8, 9})
"""Minor numbers of /dev/null, zero, full, random and urandom (Documentation/admin-guide/devices.txt)."""

_COUNTERS: Final = frozenset({"anon_inode:[eventfd]", "anon_inode:[timerfd]"})


class BadDescriptors(Error):
    message = (
        "{0}: write a number of descriptors from 3 on (--preserve-fds 2), or their numbers "
        "(--preserve-fd 3,4)"
    )


class NotOpen(Error):
    message = "{0}: descriptor {1} is not open: have the shell open it, as with '{1}<FILE'"


def inherited() -> frozenset[int]:
    """The descriptors from 3 on that this program inherited: those without close-on-exec.

    Requires: only Python has opened descriptors so far, all with close-on-exec (PEP 446).
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):
        # The descriptor of the listing is closed by now.
        with suppress(OSError):
            if int(name) >= FIRST and os.get_inheritable(int(name)):
                found.add(int(name))
    return frozenset(found)


def named(count: int, lists: Sequence[str], inherited: frozenset[int]) -> set[int]:
    """The descriptors of `--preserve-fds COUNT` (COUNT of them, from 3 on) and `--preserve-fd LIST`, as in podman.

    Raises:
      BadDescriptors: not a number, or below 3.
      NotOpen: not one of `inherited`.
    """
    if count < 0:
        raise BadDescriptors(f"--preserve-fds {count}")
    wanted = set()
    for number in range(FIRST, FIRST + count):
        wanted.add(_open(number, f"--preserve-fds {count}", inherited))
    for text in lists:
        for digits in text.split(","):
            if not (digits.isascii() and digits.isdecimal() and int(digits) >= FIRST):
                raise BadDescriptors(f"--preserve-fd {text}")
            wanted.add(_open(int(digits), f"--preserve-fd {text}", inherited))
    return wanted


def _open(number: int, option: str, inherited: frozenset[int]) -> int:
    if number not in inherited:
        raise NotOpen(option, number)
    return number


def require_open(descriptors: Iterable[int]) -> None:
    """Check that descriptors are open, before one that is opened later gets the number.

    Raises:
      OSError: EBADF, naming the first descriptor that is not open.
    """
    for descriptor in descriptors:
        try:
            fcntl.fcntl(descriptor, fcntl.F_GETFD)
        except OSError as error:
            raise OSError(error.errno, f"descriptor {descriptor}: {error.strerror}") from None


def passed_by_default(descriptors: Iterable[int]) -> set[int]:
    """The descriptors that give a command access to nothing else.

    Pipes, sockets, regular files, terminals, devices that every view has, event counters and timers. Others give more:
    a directory its tree and, by `..`, its parents; a namespace or a process what it holds; an O_PATH descriptor a file
    that may be opened; a device the machine.
    """
    return {descriptor for descriptor in descriptors if _is_plain(descriptor)}


def leads_out(descriptor: int) -> bool:
    """Whether a standard descriptor is no stream, but a directory, a namespace, a process, or one with O_PATH.

    A device counts as a stream: the caller has named it.
    """
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_PATH:
        return True
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    return kind not in (stat.S_IFBLK, stat.S_IFCHR) and not _is_plain(descriptor)


def _is_plain(descriptor: int) -> bool:
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_PATH:
        return False
    st = os.fstat(descriptor)
    match stat.S_IFMT(st.st_mode):
        case stat.S_IFIFO | stat.S_IFSOCK:
            return True
        case stat.S_IFREG:
            return attributes.file_system_of(descriptor) != _NAMESPACES
        case stat.S_IFCHR:
            major, minor = os.major(st.st_rdev), os.minor(st.st_rdev)
            return major in _TERMINALS or (major == _MEMORY and minor in _HARMLESS_MEMORY)
        # An anonymous inode has no type.
        case 0:
            return os.readlink(f"/proc/self/fd/{descriptor}") in _COUNTERS
    return False


def poll_readable(watched: Iterable[int], *, milliseconds: int | None = None) -> set[int]:
    """Wait until a descriptor is readable; the readable ones. poll(2) takes any number, unlike select(2)."""
    poll = select.poll()
    for descriptor in watched:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(milliseconds)}


def is_readable(descriptor: int) -> bool:
    """Whether a descriptor is readable now."""
    return bool(poll_readable([descriptor], milliseconds=0))
