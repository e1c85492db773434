"""What crosses the room's wall about a file: its attributes, and what is to change of them."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import os


class Attributes(NamedTuple):
    """A node's attributes: the real inode's `stat`, and what the merge says otherwise.

    `generation`: tells it from others that have had its number.
    `changed_ns`: the change time, in nanoseconds since the epoch.
    """

    number: int
    generation: int
    stat: os.stat_result
    mode: int
    link_count: int
    uid: int
    gid: int
    changed_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What setattr changes; None leaves as it is. Times are nanoseconds since the epoch, `mode` the permission bits.

    With nothing to change the change time moves all the same (chown(2) with -1 and -1).

    `asked_ns`: when the change was asked for, as far as the kernel says. `written_back`: by the kernel itself, which
    tells us a modification time that it has kept.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    asked_ns: int = 0
    written_back: bool = False

    @property
    def is_empty(self) -> bool:
        return self.is_modification_time and self.mtime_ns is None

    @property
    def is_modification_time(self) -> bool:
        """Whether it is no more than the modification time, if that."""
        asked = (self.mode, self.uid, self.gid, self.size, self.atime_ns)
        return all(value is None for value in asked)

    def are_in(self, now: Attributes) -> bool:
        """Whether a file with these attributes has all that is asked for."""
        asked = (
            (self.mode if self.mode is None else stat.S_IMODE(self.mode), stat.S_IMODE(now.mode)),
            (self.uid, now.uid),
            (self.gid, now.gid),
            (self.size, now.stat.st_size),
            (self.atime_ns, now.stat.st_atime_ns),
            (self.mtime_ns, now.stat.st_mtime_ns),
        )
        return all(value is None or value == has for value, has in asked)


class Caller(NamedTuple):
    """Who asks: the ids that a new file gets (the caller's fsuid and fsgid), and the umask for its mode."""

    uid: int
    gid: int
    umask: int = 0
