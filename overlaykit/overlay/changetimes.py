"""Change times of regular files, as the kernel keeps them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_MOST_CHANGE_TIMES: Final = 1 << 15
"""About 5 MiB of them."""


class ChangeTimes:
    """Change times of regular files in nanoseconds, by nodeid, as the kernel has shown them.

    The kernel keeps the change time of a regular file itself while it knows the file, and a disk takes none: it has the
    time at which the change was written back. So the kernel gets its own time again when it asks after it has forgotten
    the file. The last `_MOST_CHANGE_TIMES` of them are kept, until the mount ends.

    `records`: whether it does keep them, as with the writeback cache.
    """

    def __init__(self) -> None:
        self.records = True
        self._recorded: dict[int, int] = {}

    def record(self, nodeid: int, changed: int) -> None:
        if not self.records:
            return
        self._recorded.pop(nodeid, None)
        self._recorded[nodeid] = changed
        if len(self._recorded) > _MOST_CHANGE_TIMES:
            del self._recorded[next(iter(self._recorded))]

    def keep(self, nodeid: int, changed: int) -> None:
        """Record the time of an inode that another one replaces, unless a later one is recorded."""
        if nodeid not in self._recorded:
            self.record(nodeid, changed)

    def get(self, nodeid: int, otherwise: int) -> int:
        return self._recorded.get(nodeid, otherwise)

    def drop(self, nodeid: int) -> None:
        """The nodeid may be reused."""
        self._recorded.pop(nodeid, None)
