"""Listings of directories that do not change while they are read.

The kernel does not say when a directory is opened or closed: its listing begins when it is read from the start, and a
reader may continue at any time. So a name keeps its position from one listing of a directory to the next, and a new
name comes after all others: a reader that continues, after another one has restarted and names have come and gone,
meets no name twice and misses none that stayed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING, Final

from overlaykit.overlay.operation import operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overlaykit.overlay.merge import Entry
    from overlaykit.overlay.modes import Modes
    from overlaykit.overlay.nodes import Directory

_MOST_NAMES: Final = 1 << 15
"""The bound on names in listings that were read to their ends: those read last are kept, to be read again."""


class Listing:
    """The names in a directory: `entries`, by rising `positions` (from 1).

    `readers`: how many began to read it and have not reached its end. It is kept as long as there are any: when a
    reader gives up, the kernel forgets the directory. `outdated`: a name has changed since, so each name takes a
    lookup. `written_to`: the directory's upper has changed, if only by a copy-up, so that each lookup begins there.
    """

    __slots__ = ("entries", "outdated", "positions", "readers", "written_to")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.positions: Sequence[int] = range(1, len(entries) + 1)
        self.readers = 0
        self.outdated = False
        self.written_to = False

    def restart(self, entries: list[Entry]) -> None:
        """Replace the entries; names that are in the listing keep their positions."""
        self.outdated = self.written_to = False
        if [entry[0] for entry in entries] == [entry[0] for entry in self.entries]:
            self.entries = entries
            return
        positions = dict(zip((entry[0] for entry in self.entries), self.positions, strict=True))
        free = self.positions[-1] + 1 if self.positions else 1
        placed = []
        for entry in entries:
            position = positions.get(entry[0])
            if position is None:
                position = free
                free += 1
            placed.append((position, entry))
        placed.sort(key=lambda one: one[0])
        self.positions = [position for position, _ in placed]
        self.entries = [entry for _, entry in placed]

    def index_after(self, position: int) -> int:
        """The index in `entries` after the name at `position`."""
        return bisect_right(self.positions, position)

    def entries_from(self, index: int) -> Iterator[Entry]:
        return map(self.entries.__getitem__, range(index, len(self.entries)))

    def positions_from(self, index: int) -> Iterator[int]:
        return map(self.positions.__getitem__, range(index, len(self.positions)))


class Listings:
    """Keeps the listings that readers may continue, each with its directory."""

    def __init__(
        self, read: Callable[[Directory], list[Entry]], modes: Modes | None = None
    ) -> None:
        """`read`: reads a directory as it is now."""
        self.modes = modes
        self._read = read
        self._ended: deque[tuple[Directory, Listing, int]] = deque()
        self._names = 0

    @operation
    def get(self, directory: Directory, *, restart: bool) -> Listing:
        """The directory as it is now (`restart`), or the listing that a reader continues."""
        listing = directory.listing
        if listing is None:
            listing = Listing(self._read(directory))
            directory.begin_listing(listing)
        elif restart:
            listing.restart(self._read(directory))
        if restart:
            listing.readers += 1
        return listing

    def end(self, directory: Directory, listing: Listing) -> None:
        """Note that a reader has reached the end of a listing."""
        listing.readers -= 1
        names = len(listing.entries) + 1
        self._ended.append((directory, listing, names))
        self._names += names
        while self._names > _MOST_NAMES and len(self._ended) > 1:
            directory, listing, names = self._ended.popleft()
            self._names -= names
            if directory.listing is listing and listing.readers <= 0:
                directory.drop_listing()
