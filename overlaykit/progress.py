"""How far work has come that may take long: counted where it is done, shown by who asked for it.

Where it is not shown, counting costs nothing an item.
"""

from __future__ import annotations

from overlaykit.lean import Protocol
from overlaykit.scope import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import TypeVar

    _Item = TypeVar("_Item")


class Show(Protocol):
    """Shows work. `total`: of its items, 0 if it is not known. `end`: the work is done, or has failed."""

    def show(self, what: str, done: int, total: int) -> None: ...

    def end(self) -> None: ...


_shows: list[Show] = []
"""The last one shows the work of this process."""


@contextmanager
def shown(show: Show) -> Iterator[None]:
    """Show the work of the block."""
    _shows.append(show)
    try:
        yield
    finally:
        _shows.pop()


def show(what: str, done: int, total: int) -> None:
    """Show work that another process does."""
    if _shows:
        _shows[-1].show(what, done, total)


def end() -> None:
    """The work of another process is done, or has failed."""
    if _shows:
        _shows[-1].end()


def counted(items: Iterable[_Item], what: str, total: int = 0) -> Iterable[_Item]:
    """The items, each counted when it is taken."""
    return _counted(items, what, total, _shows[-1]) if _shows else items


def counted_all(items: Sequence[_Item], what: str) -> Iterable[_Item]:
    """The items, whose number is known."""
    return counted(items, what, len(items))


def _counted(items: Iterable[_Item], what: str, total: int, show: Show) -> Iterator[_Item]:
    try:
        for number, item in enumerate(items):
            show.show(what, number, total)
            yield item
    finally:
        show.end()
