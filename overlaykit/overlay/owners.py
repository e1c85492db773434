"""Owners: the ids that a view shows for those on disk, and the ids to store for those shown.

Inside an unprivileged user namespace most files of the machine belong to ids that are not mapped there: the kernel
shows the overflow id, and refuses every write to such an inode (inode_permission(9)). A view can show these files as
root's (`Ids.unmapped`), so that its root user may write to them. The file system below still decides which of them the
daemon can read and copy.

Users can also have all files shown as one owner's, or ranges of ids shown as others.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final

from overlaykit.privilege import ALL_IDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_KEEP: Final = -1
"""For chown(2): do not change the id."""

_UNMAPPED_IN_ACL: Final = 0xFFFFFFFF
"""In an ACL: an id that is not mapped in this user namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A mapping of `count` ids: those from `disk` on are shown as those from `shown` on."""

    disk: int
    shown: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpperIds:
    """The ids that an upper can hold: chown(2) can give the daemon's files, whose id is `own`, to ids that it `holds`.

    `lenient`: a copy gets the id `own` where it cannot get its owner's.
    """

    own: int
    holds: Callable[[int], bool]
    lenient: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """The mapping of ids of one kind, users or groups.

    `squash_to`: all files are shown as this id's, and chown(2) has no effect.
    `ranges`: an id outside of them is shown as `overflow` and cannot be given a file, and the files that such a caller
    creates are stored as the overflow id's. Without ranges ids are shown as they are.
    `unmapped`: the id of a lower that is shown as root's, since the kernel gives it for every unmapped id; -1: none.
    `unmapped_in_upper`: the same for an upper, where the overflow id may be a mapped user's own.
    `upper`: the ids that the upper can hold; None: every id.
    """

    squash_to: int | None = None
    ranges: tuple[Range, ...] = ()
    unmapped: int = -1
    unmapped_in_upper: int = -1
    overflow: int = 65534
    upper: UpperIds | None = None

    def shown(self, disk: int, *, in_upper: bool = False, idmapped: bool = False) -> int:
        """The id shown to programs. `idmapped`: for a lower on an idmapped mount, which has mapped the id."""
        if self.squash_to is not None:
            return self.squash_to
        if disk == (self.unmapped_in_upper if in_upper else self.unmapped):
            return 0
        if not self.ranges or idmapped:
            return disk
        shown = self._by_range(disk)
        return self.overflow if shown is None else shown

    def stored(self, shown: int) -> int:
        """The id to store for chown(2), -1 for none.

        Raises: OSError (EINVAL) for an id outside of all ranges.
        """
        return _KEEP if self.squash_to is not None else self.stored_in_acl(shown)

    def stored_for_new(self, caller: int) -> int:
        """The id to store for a file that a program creates, -1 for the daemon's own."""
        stand_in = self.overflow if self.squash_to is None else self.squash_to
        if self.squash_to is None:
            if not self.ranges:
                return caller
            stored = self._back_by_range(caller)
            if stored is not None:
                return stored
        return stand_in if self.upper is None or self.upper.holds(stand_in) else _KEEP

    def shown_in_acl(self, disk: int, *, idmapped: bool = False) -> int | None:
        """The id shown in an ACL; None if there is none for it. `squash_to` has no effect on ACLs."""
        if disk == _UNMAPPED_IN_ACL:
            return None
        if self.squash_to is not None or not self.ranges or idmapped:
            return disk
        return self._by_range(disk)

    def stored_in_acl(self, shown: int) -> int:
        """The id to store in an ACL.

        Raises: OSError (EINVAL) for an id outside of all ranges.
        """
        if self.squash_to is not None or not self.ranges:
            return shown
        stored = self._back_by_range(shown)
        if stored is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return stored

    def copied_in_acl(self, shown: int) -> int | None:
        """The id to store in the copy of an ACL; None for an id outside of all ranges."""
        return self._back_by_range(shown) if self.ranges else shown

    def copied(self, disk: int, *, idmapped: bool = False) -> int:
        """The id of a copy-up's copy: `squash_to`, else the lower's.

        The daemon's own in place of one that the upper cannot hold, if that is lenient or the lower's is not mapped.
        """
        if idmapped and self.ranges:
            return self.stored_for_new(disk)
        wanted = 0 if disk == self.unmapped else disk
        if self.squash_to is not None:
            wanted = self.squash_to
        lenient = disk == self.unmapped or (self.upper is not None and self.upper.lenient)
        if self.upper is not None and lenient and not self.upper.holds(wanted):
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
    """The mappings of users and groups."""

    users: Ids = Ids()  # frozen
    groups: Ids = Ids()  # frozen

    def shown(
        self, uid: int, gid: int, *, in_upper: bool, idmapped: bool = False
    ) -> tuple[int, int]:
        """The owners shown to programs. As `Ids.shown`, but for an unmapped group of a file of the daemon's own user.

        That is shown as the daemon's own group: it is a supplementary one of the user's, as that of a shared directory,
        and the kernel refuses every change of an inode whose group is not mapped.
        """
        user = self.users.shown(uid, in_upper=in_upper, idmapped=idmapped)
        unmapped = self.groups.unmapped_in_upper if in_upper else self.groups.unmapped
        if gid == unmapped and user == os.geteuid() and self.groups.squash_to is None:
            return user, os.getegid()
        return user, self.groups.shown(gid, in_upper=in_upper, idmapped=idmapped)

    @property
    def are_squashed(self) -> bool:
        """Whether all files are shown as one user's, or one group's."""
        return self.users.squash_to is not None or self.groups.squash_to is not None

    def limited_to(self, users: Callable[[int], bool], groups: Callable[[int], bool]) -> Owners:
        """The mappings for an upper that can hold these users and groups."""
        # Squashing is for writing: a copy must not fail because the upper cannot hold its owner.
        lenient = self.are_squashed
        return Owners(
            users=replace(
                self.users, upper=UpperIds(own=os.geteuid(), holds=cache(users), lenient=lenient)
            ),
            groups=replace(
                self.groups, upper=UpperIds(own=os.getegid(), holds=cache(groups), lenient=lenient)
            ),
        )


AS_THEY_ARE: Final = Owners()


def unmapped(overflow: int, extents: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """`Ids.unmapped` and `Ids.unmapped_in_upper` of a user namespace with these `extents` (inside, outside, count).

    None are needed where every id is mapped. Where the overflow id is mapped, an upper has files of that user; in a
    lower they look like unmapped ones, which are more.
    """
    if sum(count for _, _, count in extents) >= ALL_IDS:
        return -1, -1
    is_mapped = any(inside <= overflow < inside + count for inside, _, count in extents)
    return overflow, -1 if is_mapped else overflow
