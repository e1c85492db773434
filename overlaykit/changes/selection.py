"""Which changes of a view are meant by paths, and which go with them."""

from __future__ import annotations

import os

from overlaykit.changes.paths import is_below, is_in
from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from overlaykit.changes.model import Change


class NotAChange(Error):
    message = "{0}: the view has changed nothing there: 'overlaykit diff' lists what it has changed"


class InDeleted(Error):
    message = "{0}: the view has deleted the directory {1}: name that one, or a directory above"


def selected(changes: list[Change], paths: Sequence[bytes]) -> list[Change]:
    """The changes at the paths and below them, and what these need; all, if there are no paths.

    Raises: NotAChange, InDeleted.
    """
    if not paths:
        return changes
    chosen: set[int] = set()
    for path in paths:
        found = False
        for index, change in enumerate(changes):
            if is_below(change.path, path) or (
                change.kind == "renamed"
                and change.old_path is not None
                and is_below(change.old_path, path)
            ):
                chosen.add(index)
                found = True
            elif change.kind == "deleted" and is_below(path, change.path):
                raise InDeleted(os.fsdecode(path), os.fsdecode(change.path))
        if not found:
            raise NotAChange(os.fsdecode(path))
    # What these need: the directories that they are in, and the renames that make room for them.
    pending = list(chosen)
    while pending:
        change = changes[pending.pop()]
        for index, other in enumerate(changes):
            makes_room = other.kind == "renamed" and other.old_path == change.path
            holds = (
                other.path != change.path
                and is_below(change.path, other.path)
                and other.kind in ("added", "replaced", "renamed")
            )
            same = other.path == change.path
            if index not in chosen and (makes_room or holds or same):
                chosen.add(index)
                pending.append(index)
    return [changes[index] for index in sorted(chosen)]


Drop: TypeAlias = tuple[bytes, bool, bool]
"""A path; whether what is below it goes, too; whether only a deletion of the path goes."""


def remaining(changes: list[Change], drop: set[Drop]) -> list[Change]:
    """The changes but for those, and for those that take the old names of what is not renamed now."""
    if not drop:
        return changes
    deletions = {path for path, _, deletion in drop if deletion}
    single = {path for path, below, deletion in drop if not below and not deletion}
    trees = {path for path, below, _ in drop if below}
    while True:
        dropped = [
            one
            for one in changes
            if one.path in single
            or (one.path in deletions and one.new is None)
            or is_in(one.path, trees)
        ]
        more = {one.old_path for one in dropped if one.kind == "renamed" and one.old_path} - trees
        if not more:
            gone = set(map(id, dropped))
            return [one for one in changes if id(one) not in gone]
        trees |= more
