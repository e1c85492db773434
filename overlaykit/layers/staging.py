"""Directories of a store that are being made or removed.

The maker of such a directory holds a lock (flock(2)) on it. A directory without a lock was left by a killed process:
the next one that is made removes it. Directories are made and removed under a lock of the store.
"""

from __future__ import annotations

import errno
import fcntl
import os

from overlaykit.errors import Error
from overlaykit.rmtree import rmtree
from overlaykit.scope import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FIX: Final = "set XDG_DATA_HOME to a directory that you may write to"

_PREFIX: Final = ".tmp-"
_UNUSABLE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT)


class StoreUnusable(Error):
    message = "{0}: nothing can be kept there ({1}): {2}"

    def __init__(self, root: str, reason: str) -> None:
        super().__init__(root, reason, FIX)


@contextmanager
def staged(store: str, *, base: str) -> Iterator[tuple[int, str]]:
    """A new locked directory in the store: its descriptor and path. It is removed afterwards, unless renamed.

    `base` is a parent of the store that has to exist.

    Raises:
      StoreUnusable: the store cannot be written to.
    """
    with _explained(store):
        os.stat(base)
        os.makedirs(store, 0o700, exist_ok=True)
    with opened(store) as root:
        name = temporary_name()
        path = os.path.join(store, name)
        fcntl.flock(root, fcntl.LOCK_EX)
        _remove_abandoned(store, root)
        with _explained(store):
            os.mkdir(name, 0o700, dir_fd=root)
        with opened(path) as directory:
            fcntl.flock(directory, fcntl.LOCK_EX)
            fcntl.flock(root, fcntl.LOCK_UN)
            try:
                yield directory, path
            finally:
                rmtree(root, os.fsencode(name))


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A directory, open until the end of the block."""
    fd = os.open(path, DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def temporary_name() -> str:
    """A name that is no layer's."""
    return _PREFIX + os.urandom(8).hex()


@contextmanager
def _explained(store: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNUSABLE:
            raise
        raise StoreUnusable(store, os.strerror(error.errno)) from None


def _remove_abandoned(store: str, root: int) -> None:
    for name in os.listdir(root):
        if not name.startswith(_PREFIX):
            continue
        # Skipped: finished in between (not found), in use (locked).
        with (
            suppress(FileNotFoundError, BlockingIOError),
            opened(os.path.join(store, name)) as directory,
        ):
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            rmtree(root, os.fsencode(name))
