"""The directory of a named view, as its entry in the registry knows it: by its inode, because the view may be renamed.

A name is given and taken away under a lock of the directory of all views (flock(2)): what holds it sees each name lead
to the same view all the time.
"""

from __future__ import annotations

import fcntl
import os

from overlaykit.fuse.cleanup import lock_directory
from overlaykit.record import Record
from overlaykit.scope import contextmanager, suppress
from overlaykit.views.scratch import UPPER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Kept(Record, kw_only=True):
    """`views`: the directory of named views; `device`, `inode`: of the view's own directory in it."""

    views: str
    device: int
    inode: int

    def is_same(self, other: Kept | None) -> bool:
        return other is not None and (other.device, other.inode) == (self.device, self.inode)

    def is_named(self, name: str) -> bool:
        """Whether it has this name."""
        with suppress(OSError):
            st = os.lstat(os.path.join(self.views, name))
            return (st.st_dev, st.st_ino) == (self.device, self.inode)
        return False

    def name(self, earlier: str) -> str | None:
        """Its name now, which may be the `earlier` one; None: it was removed."""
        if self.is_named(earlier):
            return earlier
        with suppress(FileNotFoundError), names_locked(self.views):
            for name in os.listdir(self.views):
                if not name.startswith(".") and self.is_named(name):
                    return name
        return None

    def moved(self, path: str | None, earlier: str, name: str) -> str | None:
        """A path as it is since the view was renamed; only that of its own upper changes."""
        views = None if path is None else path.removesuffix(f"/{earlier}/{UPPER}")
        if views is None or views == path or not os.path.samefile(views, self.views):
            return path
        return os.path.join(views, name, UPPER)

    def moved_below(self, path: str, earlier: str, name: str) -> str:
        """As `moved`, of a layer's path: only those of the view's own snapshots change."""
        start = os.path.join(self.views, earlier) + "/"
        return (
            os.path.join(self.views, name, path[len(start) :]) if path.startswith(start) else path
        )


@contextmanager
def names_locked(views: str) -> Iterator[None]:
    """Keep others from naming views, and from taking names away, during the block. Raises: FileNotFoundError."""
    lock = lock_directory(views, fcntl.LOCK_EX)
    if lock < 0:
        raise FileNotFoundError(views)
    try:
        yield
    finally:
        os.close(lock)
