"""Listings of directories that stand still while they are read.

Nobody says when a directory is opened or closed: its listing begins when it is read from the start, and may be read on
at any time. So a name keeps its position from one listing of a directory to the next, and what is made meanwhile comes
after all the rest: whoever reads on after others have begun anew, and after names have come and gone, meets none twice
and misses none that stayed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overlaykit.overlay.merge import Entry
    from overlaykit.overlay.nodes import Directory

_MOST_NAMES: Final = 1 << 15
"""Of all listings together: those read last are kept, and in any case the very last."""


class Listing:
    """The names in `directory`: `entries`, by rising `positions` (from 1)."""

    __slots__ = ("directory", "entries", "positions")

    def __init__(self, directory: Directory, entries: list[Entry]) -> None:
        self.directory = directory
        self.entries = entries
        self.positions: Sequence[int] = range(1, len(entries) + 1)

    def begin_anew(self, entries: list[Entry]) -> None:
        """Take `entries` over; known names keep their positions."""
        if [entry.name for entry in entries] == [entry.name for entry in self.entries]:
            self.entries = entries
            return
        known = dict(zip((entry.name for entry in self.entries), self.positions, strict=True))
        free = self.positions[-1] + 1 if self.positions else 1
        placed = []
        for entry in entries:
            position = known.get(entry.name)
            if position is None:
                position = free
                free += 1
            placed.append((position, entry))
        placed.sort(key=lambda one: one[0])
        self.positions = [position for position, _ in placed]
        self.entries = [entry for _, entry in placed]

    def index_after(self, position: int) -> int:
        """Where in `entries` to go on after the name at `position`."""
        return bisect_right(self.positions, position)


class Listings:
    """The listings that may be read on."""

    def __init__(self, entries: Callable[[Directory], list[Entry]]) -> None:
        """`entries` reads a directory as it is now."""
        self._read = entries
        self._by_number: OrderedDict[int, Listing] = OrderedDict()
        self._names = 0

    def get(self, directory: Directory, *, anew: bool) -> Listing:
        """A listing from the start (`anew`), or the one that was begun."""
        listing = self._by_number.pop(directory.number, None)
        if listing is not None:
            self._names -= len(listing.entries)
            if listing.directory is not directory:  # an earlier one's, of the same number
                listing = None
        if listing is None:
            listing = Listing(directory, self._read(directory))
        elif anew:
            listing.begin_anew(self._read(directory))
        self._by_number[directory.number] = listing
        self._names += len(listing.entries)
        while self._names > _MOST_NAMES and len(self._by_number) > 1:
            _, oldest = self._by_number.popitem(last=False)
            self._names -= len(oldest.entries)
        return listing
