"""A file's attributes, and changes of them, as the package's callers see them."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import os


class Attributes(NamedTuple):
    """A node's attributes: the real inode's `stat`, and those that differ in the merge.

    `generation`: distinguishes the node from others that have had its nodeid.
    `changed_ns`: the change time, in nanoseconds since the epoch. `blocks`: as st_blocks.
    """

    nodeid: int
    inode_number: int
    generation: int
    stat: os.stat_result
    mode: int
    link_count: int
    uid: int
    gid: int
    changed_ns: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What setattr changes; None: nothing. Times are nanoseconds since the epoch, `mode` the permission bits.

    An empty change moves the change time (chown(2) with -1 and -1).

    `asked_ns`: when the change was requested, 0 if the kernel does not say. `written_back`: the kernel writes back a
    modification time that it has kept.
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
        """Whether it changes nothing but the modification time."""
        asked = (self.mode, self.uid, self.gid, self.size, self.atime_ns)
        return all(value is None for value in asked)

    def are_in(self, now: Attributes) -> bool:
        """Whether a file with the attributes `now` already has all these values."""
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
    """The process that makes a file: the ids that the file gets (its fsuid and fsgid), and its umask."""

    uid: int
    gid: int
    umask: int = 0
