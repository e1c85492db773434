"""Open descriptors as a cache with a bound: what was evicted opens itself again when it is asked for its descriptor.

The limit of a process (RLIMIT_NOFILE) is shared by directories and open files, with a reserve for what an operation
opens on the way. So a program with many open files keeps no other program from opening one.
"""

from __future__ import annotations

import errno
import os
import resource
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Protocol

_MOST_DIRECTORIES: Final = 8192
_LARGEST_RESERVE: Final = 512
_FEWEST: Final = 16
"""Descriptors to share, fewer than which a mount does not begin with."""


class Cached(Protocol):
    """Something with a descriptor. `recent`: it was asked for it since it was last spared."""

    recent: bool

    def evict(self) -> bool:
        """Close the descriptor; False if it must stay open for now."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Limits: open descriptors of `directories` and of `files`; `copies`: copy-ups that may run at once."""

    directories: int
    files: int
    copies: int


def shares() -> Shares:
    """Shares of what the limit leaves beside the descriptors that are open now. Raises OSError (EMFILE) if that is
    too little."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    reserve = min(_LARGEST_RESERVE, limit // 4)
    free = limit - reserve - len(os.listdir("/proc/self/fd"))
    if free < _FEWEST:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    directories = min(_MOST_DIRECTORIES, free // 2)
    return Shares(directories=directories, files=free - directories, copies=max(1, reserve // 8))


class Descriptors:
    """The open descriptors of one kind: about `limit` of them, by second chance, so that a hit costs one store.

    None is closed until `trim` is called, which happens between operations: within one, every descriptor that was asked
    for stays valid. Invariant: what has an open descriptor of its own stands in `_queue` exactly once.
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
        """Close them all that may be closed; they still open themselves if they are asked to."""
        while self._queue:
            self._queue.popitem(last=False)[0].evict()

    def trim(self) -> None:
        """Close what is too many, those unused for longest first, and none that must stay open."""
        queue = self._queue
        if len(queue) <= self.limit:
            return
        for _ in range(2 * len(queue)):
            one, _ = queue.popitem(last=False)
            if one.recent:
                one.recent = False
            elif one.evict():
                if len(queue) <= self.limit:
                    return
                continue
            queue[one] = None
