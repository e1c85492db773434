"""A bounded cache of open descriptors: an evicted object reopens itself at its next use.

Directories and open files share the limit of the process (RLIMIT_NOFILE), less a reserve for the descriptors that an
operation opens and closes. A program with many open files does not keep another one from opening a file.
"""

from __future__ import annotations

import errno
import os
import resource

from overlaykit.lean import NamedTuple, OrderedDict, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

_MAX_DIRECTORIES: Final = 8192
_MAX_RESERVE: Final = 512
_MIN_SHARED: Final = 16
"""Descriptors that a mount needs to start."""


class Cached(Protocol):
    """An object with a descriptor. `recent`: used since `trim` last passed it."""

    recent: bool

    def give_up(self) -> int:
        """Forget the descriptor. Returns: it, which the caller closes; -1 if it must stay open."""


class Shares(NamedTuple):
    """Limits: open descriptors of `directories` and of `files`; `copies`: copy-ups that may run at once.

    `plane`: descriptors of directories, and as many of files, that the data plane may keep open.
    """

    directories: int
    files: int
    copies: int
    plane: int


def shares() -> Shares:
    """Divide the descriptors that the limit leaves.

    Raises: OSError (EMFILE) if they are too few.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    reserve = min(_MAX_RESERVE, limit // 4)
    free = limit - reserve - len(os.listdir("/proc/self/fd"))
    if free < _MIN_SHARED:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    plane = min(_MAX_DIRECTORIES, free // 8)
    free -= 2 * plane
    directories = min(_MAX_DIRECTORIES, free // 2)
    return Shares(
        directories=directories,
        files=free - directories,
        copies=max(1, reserve // 8),
        plane=plane,
    )


class Descriptors:
    """The open descriptors of one kind, about `limit`. Evicts by second chance, so that a hit costs one store.

    Only `trim` closes descriptors, between operations: a descriptor stays valid within the operation that uses it.
    Invariant: an object with an open descriptor is in `_queue` exactly once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._queue: OrderedDict[Cached, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, one: Cached) -> None:
        self._queue[one] = None

    def discard(self, one: Cached) -> None:
        del self._queue[one]

    def close(self) -> None:
        """Close all descriptors that may be closed; their objects can still reopen them.

        A system call closes all whose numbers follow one another (close_range(2)): thousands of directories may be open
        at the end of a mount, for which its user waits.
        """
        given = sorted(fd for one in self._queue if (fd := one.give_up()) >= 0)
        self._queue.clear()
        first = last = -2
        for fd in (*given, -1):
            if fd == last + 1:
                last = fd
                continue
            if first >= 0:
                os.closerange(first, last + 1)
            first = last = fd

    def close_some(self, is_meant: Callable[[Cached], bool]) -> None:
        """Close those of the objects that `is_meant` says."""
        for one in [one for one in self._queue if is_meant(one)]:
            if (fd := one.give_up()) >= 0:
                del self._queue[one]
                os.close(fd)

    def trim(self) -> None:
        """Close descriptors down to `limit`, the least recently used first, and none that must stay open."""
        queue = self._queue
        if len(queue) <= self.limit:
            return
        for _ in range(2 * len(queue)):
            one, _ = queue.popitem(last=False)
            if one.recent:
                one.recent = False
            elif (fd := one.give_up()) >= 0:
                os.close(fd)
                if len(queue) <= self.limit:
                    return
                continue
            queue[one] = None
