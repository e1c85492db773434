"""Opens the directories that are compared."""

from __future__ import annotations

import os

from overlaykit import _native
from overlaykit.overlay.opened import OpenedLayer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, TypeAlias

Opened: TypeAlias = OpenedLayer

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def open_directory(path: str) -> Opened:
    """A layer or an upper at a path, for a `Comparison`. Raises: OSError."""
    try:
        return OpenedLayer(os.open(path, _DIRECTORY), path)
    except PermissionError:
        from overlaykit.reader import opened_past_modes

        return OpenedLayer(opened_past_modes(lambda: os.open(path, _DIRECTORY)), path)


def open_stack(
    upper: str, frozen: Sequence[str], lowers: Sequence[str]
) -> tuple[Opened, list[Opened]]:
    """An upper, and what it lies on: uppers that were frozen, and lowers. All top first. Raises: OSError."""
    return open_directory(upper), [*map(open_frozen, frozen), *map(open_directory, lowers)]


def open_frozen(path: str) -> Opened:
    """An upper that was frozen. Raises: OSError."""
    return open_directory(path)._replace(frozen=True)


def open_covered(path: str) -> Opened:
    """A directory that a mount covers. Raises: OSError (EPERM without CAP_SYS_ADMIN)."""
    above, name = os.path.split(path)
    clone = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC
    tree = _native.open_tree(_native.AT_FDCWD, above, clone)
    try:
        return OpenedLayer(os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=tree), path)
    finally:
        os.close(tree)
