"""New directories of an upper that are put in place whole: one rename moves all that they hold.

Nothing in such a directory may need a step of its own: what is on the disk is what the view shows, under the same
names, without markers. Its parts are put one by one otherwise, and those of its directories whole that may be.
"""

from __future__ import annotations

import os

from overlaykit.changes.paths import is_in, name_of, parent
from overlaykit.overlay.markers import OVERLAY_PREFIXES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from typing import Final

    from overlaykit.changes.model import Version
    from overlaykit.changes.planning import Arrival

_RWX: Final = 0o700


class Whole:
    """The directories that are moved whole.

    `held`: the inode numbers of all that each one holds, by its path; none of them is in another one.
    """

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        movable: Container[tuple[int, int]],
        above: bytes,
    ) -> None:
        """`arrivals`: each directory before what it holds. `movable`: inodes of files that may be moved as they are.

        `above`: what comes before each path in the upper. Raises: OSError.
        """
        self._movable = movable
        self._above = above
        inside: dict[bytes, list[Arrival]] = {}
        for arrival in arrivals:
            path = arrival.change.path
            inside.setdefault(parent(path), []).append(arrival)
        self.held: dict[bytes, list[int]] = {}
        for arrival in reversed(arrivals):
            path, new = arrival.change.path, arrival.change.new
            assert new is not None
            if arrival.change.inside is not None:
                self.held[path] = arrival.change.inside.inodes
            elif new.is_directory and self._may_be(arrival, new):
                self._take(path, new, inside.get(path, []))

    def _take(self, path: bytes, new: Version, children: Sequence[Arrival]) -> None:
        """Note a directory as whole, in place of those in it, if all that it holds may be moved with it."""
        held: list[int] = []
        below: list[bytes] = []
        for child in children:
            inner = child.change.new
            assert inner is not None
            if child.displaced is not None or is_marked(inner):
                return
            if inner.is_directory:
                if child.change.path not in self.held:
                    return
                below.append(child.change.path)
            elif inner.inode not in self._movable:
                return
            held.append(inner.stat.st_ino)
        if _names_on_disk(new) != {name_of(child.change.path) for child in children}:
            return
        for one in below:
            held += self.held.pop(one)
        self.held[path] = held

    def _may_be(self, arrival: Arrival, new: Version) -> bool:
        st = new.stat
        return (
            arrival.moved_from is None
            and not arrival.change.kept
            and new.layer_dir.layer.writable
            and new.layer_dir.layer.override is None
            and (new.mode, new.uid, new.gid) == (st.st_mode, st.st_uid, st.st_gid)
            # An ordinary user may move a directory only if its mode lets the user write in it (rename(2)).
            and (os.geteuid() == 0 or new.mode & _RWX == _RWX)
            and new.layer_dir.path(new.name) == self._above + arrival.change.path
        )

    def holds(self, path: bytes) -> bool:
        """Whether one of the directories holds the path, which moves with it."""
        return is_in(parent(path), self.held)


def is_marked(version: Version) -> bool:
    """Whether a file has attributes of an overlay. Raises: OSError."""
    return any(name.startswith(OVERLAY_PREFIXES) for name in version.attribute_names())


def _names_on_disk(version: Version) -> set[bytes]:
    """All names in a directory, also those that a view does not show."""
    directory = version.layer_dir.child(version.name)
    try:
        return {name for portion in directory.scan() for name, _, _ in portion}
    finally:
        directory.close()
