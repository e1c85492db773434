"""An open file: the one descriptor behind all handles of a file."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from overlaykit.overlay.descriptors import Descriptors
    from overlaykit.overlay.nodes import File

_LATE_AT_MOST: Final = 10 * 10**9
"""Nanoseconds."""

_CLOCK_LAG: Final = 20 * 10**6
"""Nanoseconds: the kernel stamps files with a clock that ticks every 10 ms or more often."""


class Reopening(Protocol):
    """Opens and closes descriptors of open files (`files.Files`)."""

    descriptors: Descriptors

    def may_reopen(self, opened: OpenFile, fd: int) -> bool: ...

    def reopen(self, opened: OpenFile) -> int: ...

    def end(self, opened: OpenFile) -> None: ...


class OpenFile:
    """The one descriptor behind all handles of a file.

    Copy-up swaps `fd`, so each handle reads the new bytes at once and none can write into a lower. While the file is
    idle its descriptor may be closed (`descriptors`); `fd` opens it again.

    `opened_ns`: when it was opened. `direct`: a handle bypasses the kernel's cache. `modified`: the modification time
    to put back after writes (see `files`), or None. `asked_ns`: when the last change of that time was requested.
    `count`: how many handles it has; 0 if programs open it without a request (`files.Files.no_open`).
    `opener`: the name of the program whose writes copy the file up, or empty.
    `lazily`: a program may write to it, and the first write copies it up. `users`: how many threads use `fd` now.
    `unsynced`: bytes were written since the last sync. `failure`: the errno that the next sync reports, or 0.
    """

    __slots__ = (
        "_fd",
        "_files",
        "asked_ns",
        "count",
        "direct",
        "failure",
        "handle",
        "identity",
        "lazily",
        "modified",
        "node",
        "opened_ns",
        "opener",
        "recent",
        "unsynced",
        "users",
        "writable",
    )

    def __init__(
        self, handle: int, node: File, fd: int, *, writable: bool, files: Reopening
    ) -> None:
        self.handle = handle
        self.node = node
        self.writable = writable
        self.count = 0
        self.direct = False
        self.modified: int | None = None
        self.asked_ns = 0
        self.opened_ns = time.time_ns()
        self.opener = b""
        self.recent = True
        self.lazily = False
        self.users = 0
        self.unsynced = False
        self.failure = 0
        self.identity = (0, 0)
        self._fd = fd
        self._files = files
        files.descriptors.add(self)

    @property
    def fd(self) -> int:
        """The descriptor, valid until `Descriptors.trim`. Raises OSError (ESTALE) if the inode is out of reach."""
        if self._fd < 0:
            self._fd = self._files.reopen(self)
            self._files.descriptors.add(self)
        self.recent = True
        return self._fd

    @property
    def is_idle(self) -> bool:
        """Whether the descriptor is closed."""
        return self._fd < 0

    def give_up(self) -> int:
        if self.users or not self._files.may_reopen(self, self._fd):
            return -1
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Close the descriptor for good. Raises OSError: a disk may report only now that a write failed."""
        if self._fd >= 0:
            self._files.descriptors.discard(self)
            fd, self._fd = self._fd, -1
            os.close(fd)

    @property
    def state(self) -> tuple[int | None, int, int, bool]:
        """For `continue_from`."""
        return self.modified, self.asked_ns, self.opened_ns, self.direct

    def give_away(self) -> None:
        """Note that the descriptor is another one's."""
        self._files.descriptors.discard(self)
        self._fd = -1

    def end(self) -> None:
        """Close it, as no program can have it open any more. An error of a write has no program to reach."""
        with contextlib.suppress(OSError):
            self._files.end(self)

    def is_outdated(self, asked_ns: int) -> bool:
        """Whether a program has set a later modification time than the one that the kernel writes back.

        The kernel writes back without a lock (fs/fuse/inode.c: fuse_flush_times): the older time may arrive last. A
        much older one means that the clock was set.
        """
        return 0 < self.asked_ns - asked_ns < _LATE_AT_MOST

    def begin_write(self, *, past_cache: bool) -> None:
        """Note that a write comes, of a file that programs open without a request: it may have been opened again.

        `past_cache`: what is written does not come from the kernel's cache.
        """
        self.direct = past_cache
        if past_cache:
            self.modified = None
        if self.asked_ns and (now := time.time_ns()) - self.asked_ns > _LATE_AT_MOST:
            self.asked_ns = 0
            self.opened_ns = now

    def is_before_writes(self, modified: int) -> bool:
        """Whether the time `modified` is that of before all writes: the kernel has set none, and lost the later one.

        It loses one to sync(2), if a write comes in between, despite `lazytime` (`fuse.mount`).
        """
        return not self.asked_ns and modified < self.opened_ns - _CLOCK_LAG

    def continue_from(
        self, modified: int | None, asked_ns: int, opened_ns: int, direct: bool
    ) -> None:
        """Take over the state of a file that another one has held open."""
        self.modified = modified
        self.asked_ns = asked_ns
        self.opened_ns = opened_ns
        self.direct = direct
        self.unsynced = self.writable

    def set_modified(self, asked_ns: int) -> None:
        """Note that a modification time is set, requested at `asked_ns`: earlier writes do not put theirs back."""
        self.asked_ns = asked_ns
        self.modified = None

    def freeze(self, fd: int) -> None:
        """Write no more to its inode, which lies in a lower now. `fd`: only reads; -1: the file is idle, or was so."""
        if fd >= 0:
            self.close()
            self._fd = fd
            self._files.descriptors.add(self)
        self.writable = False

    def swap(self, fd: int) -> None:
        """Continue on the upper's descriptor `fd`."""
        self.close()
        self._fd = fd
        self._files.descriptors.add(self)
        self.writable = True
