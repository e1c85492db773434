"""A resolved layer: a directory and its masks, and the lock that keeps it in the store."""

from __future__ import annotations

import fcntl
import os

from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class Hold:
    """A shared lock on a layer's directory: the store does not remove the layer while it is open.

    The lock belongs to the open file description (flock(2)): child processes inherit it, and it ends when the last
    copy of the descriptor is closed.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The locked descriptor (close-on-exec), owned by this object."""
        return self._fd

    def close(self) -> None:
        """Release the lock. May be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()


class Layer(Record, kw_only=True):
    """A directory that is a read-only layer of a view."""

    name: str
    """`host`, a name of the store, or the path of the directory."""
    path: str
    """The absolute path of the directory."""
    recursive: bool = False
    """Whether the mounts below `path` belong to it; true of `host` alone."""
    masks: tuple[str, ...] = ()
    """Absolute paths below `path` that the daemon covers by empty read-only directories or files.

    stat(2) of a mask could wait for another process, so the type is not known here."""
    frozen: bool = False
    """Whether it is a frozen upper: what it holds has the inode numbers that it had there."""
    index: str | None = None
    """Of a frozen upper: its index (`overlay.work`), by which hard links of the layers below show its files."""

    @property
    def is_stored(self) -> bool:
        """Whether it is a layer of the store: its files do not change, and it is there as long as it is held."""
        return not self.recursive and "/" not in self.name

    def hold(self) -> Hold:
        """Prevent the removal of the layer until the result is closed.

        Raises:
          OSError: ENOENT if it has been removed.
        """
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Removal renames the layer under an exclusive lock: under this one, it is either in place or removed.
            fcntl.flock(fd, fcntl.LOCK_SH)
            if not os.path.samestat(os.fstat(fd), os.stat(self.path)):
                raise FileNotFoundError(2, os.strerror(2), self.path)
        except BaseException:
            os.close(fd)
            raise
        return Hold(fd)
