"""What a layer is, once its name has been understood: a directory, and what of it is left out."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from types import TracebackType


class Hold:
    """A shared lock on a layer's directory: while it is open, the store does not remove the layer.

    The lock belongs to the open file (flock(2)): it passes to child processes with the descriptor and
    ends when the last copy of it is closed, so also when its holders are killed.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The locked descriptor (close-on-exec), still owned by this object."""
        return self._fd

    def close(self) -> None:
        """Let go; doing it twice is harmless."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A directory to be seen, read-only, as one layer of a view."""

    name: str
    """What the user calls it: `host`, a name of the store, or the directory's path."""
    path: str
    """The absolute path of the directory."""
    recursive: bool = False
    """Whether the mounts below `path` belong to it (only those of `host` do)."""
    masks: tuple[str, ...] = ()
    """Absolute paths below `path` to be covered, each by an empty read-only directory (or file, where a mount is on
    a file: to find out is left to who covers them, for asking could wait for another process)."""

    def hold(self) -> Hold:
        """Keep the layer from being removed until the result is closed.

        Raises OSError: ENOENT when it has been removed, also at the last moment.
        """
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Whoever removes a layer locks it first and renames it away under that lock: once we have
            # ours, the layer is either still in its place or gone for good.
            fcntl.flock(fd, fcntl.LOCK_SH)
            if not os.path.samestat(os.fstat(fd), os.stat(self.path)):
                raise FileNotFoundError(2, os.strerror(2), self.path)
        except BaseException:
            os.close(fd)
            raise
        return Hold(fd)
