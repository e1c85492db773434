"""Whose a file is: the owners a view shows for those on disk, and back.

Inside an unprivileged user namespace most of the machine's files belong to users that do not exist there: the kernel
shows the overflow id, and refuses every write to such an inode (inode_permission(9): an unmapped owner). A view
whose user is root should find root's files root's own: `squash_unmapped` shows them so. What may really be
read or copied is still decided below, by the file system that holds it.

Users may also ask for all files to be one owner's, or for ranges of ids to be shown as others.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_ALL_IDS: Final = (1 << 32) - 1  # the last number means "none" (chown(2))
_KEEP: Final = -1
"""For chown(2): leave as it is."""

_UNKNOWN: Final = 0xFFFFFFFF
"""In an access control list: an id that this user namespace does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """`count` ids from `disk` on are shown as those from `shown` on."""

    disk: int
    shown: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Storable:
    """What ids an upper can hold: which a file of the daemon's, whose id is `own`, can be given.

    `lenient`: a copy becomes the daemon's own where it cannot have its owner.
    """

    own: int
    holds: Callable[[int], bool]
    lenient: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """How ids of one kind (users, or groups) are shown.

    `everybody`: all files are shown as this one's; changing an owner then changes nothing. `ranges`: what none of them
    names is shown as the overflow id and cannot be given a file; what such a caller makes is stored as the overflow
    id's (none: ids are shown as they are). `unmapped`: the id
    that stands in a lower for those this user namespace does not know, shown as root's; -1 to show it as it is. In
    an upper, `unmapped_in_upper` does: where a user of the namespace has that id, the files there are that user's.
    """

    everybody: int | None = None
    ranges: tuple[Range, ...] = ()
    unmapped: int = -1
    unmapped_in_upper: int = -1
    overflow: int = 65534
    upper: Storable | None = None
    """What the upper can hold; None: every id."""

    def shown(self, disk: int, *, in_upper: bool = False, idmapped: bool = False) -> int:
        """The id that a program sees. `idmapped`: of a lower on an idmapped mount, which has mapped it already."""
        if self.everybody is not None:
            return self.everybody
        if disk == (self.unmapped_in_upper if in_upper else self.unmapped):
            return 0
        if not self.ranges or idmapped:
            return disk
        shown = self._by_range(disk)
        return self.overflow if shown is None else shown

    def stored(self, shown: int) -> int:
        """The id to store for one that a program gave, -1 to store none. Raises OSError (EINVAL) if it has none."""
        return _KEEP if self.everybody is not None else self.given(shown)

    def made(self, caller: int) -> int:
        """The id to store for something that a program has made, -1 for the daemon's own."""
        stand_in = self.overflow if self.everybody is None else self.everybody
        if self.everybody is None:
            if not self.ranges:
                return caller
            stored = self._back_by_range(caller)
            if stored is not None:
                return stored
        return stand_in if self.upper is None or self.upper.holds(stand_in) else _KEEP

    def named(self, disk: int, *, idmapped: bool = False) -> int | None:
        """The id that programs read in an access control list; None if they cannot name it.

        Where all files are one owner's, lists still name whom they name.
        """
        if disk == _UNKNOWN:
            return None
        if self.everybody is not None or not self.ranges or idmapped:
            return disk
        return self._by_range(disk)

    def given(self, shown: int) -> int:
        """The id to store in an access control list. Raises OSError (EINVAL) if it has none."""
        if self.everybody is not None or not self.ranges:
            return shown
        stored = self._back_by_range(shown)
        if stored is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return stored

    def kept(self, shown: int) -> int | None:
        """The id to store in a copy of an access control list; None if it has none."""
        return self._back_by_range(shown) if self.ranges else shown

    def copied(self, disk: int, *, idmapped: bool = False) -> int:
        """The id that a copy gets. Where all files are shown as one owner's it is that owner's, or else our own."""
        if idmapped and self.ranges:
            return self.made(disk)
        wanted = 0 if disk == self.unmapped else disk
        if self.everybody is not None:
            wanted = self.everybody
        if self.upper is not None and self.upper.lenient and not self.upper.holds(wanted):
            return self.upper.own
        return wanted

    def _by_range(self, disk: int) -> int | None:
        for part in self.ranges:
            if 0 <= disk - part.disk < part.count:
                return part.shown + disk - part.disk
        return None

    def _back_by_range(self, shown: int) -> int | None:
        for part in self.ranges:
            if 0 <= shown - part.shown < part.count:
                return part.disk + shown - part.shown
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """How users and groups are shown."""

    users: Ids = Ids()  # frozen
    groups: Ids = Ids()  # frozen

    @property
    def are_one(self) -> bool:
        """Whether all files are shown as one user's, or one group's."""
        return self.users.everybody is not None or self.groups.everybody is not None

    def held_in(self, users: Callable[[int], bool], groups: Callable[[int], bool]) -> Owners:
        """As they are stored in an upper that can hold these ids.

        Who asks for one owner for all files wants to write to them: then no owner that cannot be kept is in the way.
        """
        lenient = self.are_one
        return Owners(
            users=replace(
                self.users, upper=Storable(own=os.geteuid(), holds=cache(users), lenient=lenient)
            ),
            groups=replace(
                self.groups, upper=Storable(own=os.getegid(), holds=cache(groups), lenient=lenient)
            ),
        )


AS_THEY_ARE: Final = Owners()


def unmapped(kind: str) -> tuple[int, int]:
    """What stands for unknown ids in a lower, and in an upper: `Ids.unmapped` and `Ids.unmapped_in_upper`.

    A namespace that knows every id has none. One that knows the overflow id has files of that user in an upper; in a
    lower the two cannot be told apart, and most are the machine's.
    """
    overflow = overflow_id(kind)
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        extents = [tuple(map(int, line.split())) for line in file]
    if sum(count for _, _, count in extents) >= _ALL_IDS:
        return -1, -1
    is_known = any(inside <= overflow < inside + count for inside, _, count in extents)
    return overflow, -1 if is_known else overflow


def overflow_id(kind: str) -> int:
    """What stands for ids that a user namespace does not know; `kind` is `uid` or `gid` (user_namespaces(7))."""
    with open(f"/proc/sys/kernel/overflow{kind}", encoding="ascii") as file:
        return int(file.read())
