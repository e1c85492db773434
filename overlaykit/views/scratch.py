"""Scratch: the directory of what is written in a view without `--upper`, on a disk, removed at the end of the view.

An entry of the registry names it. The entry may be lost: the registry lies in memory, the scratch outlives a reboot.
So the processes that hold the lock of the entry lock the scratch, too (flock(2)). A view that starts removes each
scratch without a lock, also one of another registry. It takes only a directory with the attribute `_LOCKED` for
unlocked: that lies on a disk that no other machine mounts, so every process of this user sees the lock.
"""

from __future__ import annotations

import fcntl
import os

from overlaykit.fuse.cleanup import lock_directory
from overlaykit.scope import suppress
from overlaykit.views import places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

UPPER: Final = "upper"
"""The name of the upper in it."""

_PREFIX: Final = "scratch-"

_LOCKED: Final = "user.overlaykit.locked"


def name_of(entry: str) -> str:
    """The name of the scratch of an entry."""
    return _PREFIX + entry


def lock(path: str) -> int:
    """Lock a new scratch. Returns: the lock's descriptor; -1 where there are no locks."""
    with suppress(OSError):
        held = lock_directory(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if held >= 0 and places.is_usual_disk(held):
            with suppress(
                OSError
            ):  # after the lock, without which it means that the view has ended
                os.setxattr(held, _LOCKED, b"y")
        return held
    return -1


def remove_lost(registry: str) -> None:
    """Remove the scratch of each view that has ended, and that has no entry in the registry at `registry`."""
    for place in places.scratch():
        with suppress(OSError):
            if not places.is_private(place):
                continue
            for name in os.listdir(place):
                entry = os.path.join(registry, name.removeprefix(_PREFIX))
                if name.startswith(_PREFIX) and not os.path.lexists(entry):
                    _remove_lost(os.path.join(place, name))


def _remove_lost(path: str) -> None:
    if os.path.islink(path):
        return
    held = lock_directory(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if held < 0:
        return
    try:
        with suppress(OSError):
            is_own = os.fstat(held).st_uid == os.geteuid()
            if is_own and places.is_usual_disk(held) and os.getxattr(held, _LOCKED):
                remove(path)
    finally:
        os.close(held)


def remove_unlocked(path: str) -> None:
    """Remove a scratch, unless a process of a view holds its lock: a view of the same name in another registry."""
    held = -1
    with suppress(OSError):  # there are no locks
        held = lock_directory(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if held < 0:
            return
    remove(path)
    if held >= 0:
        os.close(held)


def remove(path: str) -> None:
    """Remove a tree, with the limit of the upper in it; what cannot be removed stays."""
    if os.geteuid() == 0:
        from overlaykit import projects

        projects.end_limit(os.path.join(path, UPPER))
    from overlaykit.rmtree import rmtree_path  # not at each start of a view

    try:
        rmtree_path(path)
    except PermissionError:  # files of the view's other users, which have subordinate ids
        from overlaykit.namespace import errno_as_root, is_privileged

        if not is_privileged():
            errno_as_root(lambda: rmtree_path(path))
    except OSError:
        pass
