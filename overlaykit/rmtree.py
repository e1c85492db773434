"""Remove a tree, with unreadable and read-only directories, deep paths and symbolic links in it.

`shutil.rmtree` stops at a directory of mode 0555 or 0000 and recurses as deep as the tree.
"""

from __future__ import annotations

import os

from overlaykit import _native
from overlaykit.beneath import BENEATH
from overlaykit.scope import suppress

_LONGEST_PATH = 2048
"""Bytes: well below PATH_MAX. A longer path continues from a descriptor."""


def rmtree(parent: int, name: bytes) -> None:
    """Remove `name` in the directory open as `parent`, and everything below it; do nothing if it is missing.

    Symbolic links are removed and not followed. The modes of directories are widened where they forbid removal.

    Raises:
      OSError: EXDEV at a mountpoint, EPERM for a directory of another owner, else as unlinkat(2).
    """
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        _rmtree_directory(parent, name)


def rmtree_path(path: str) -> None:
    """`rmtree` of a path's last name."""
    directory, name = os.path.split(path)
    parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rmtree(parent, os.fsencode(name))
    finally:
        os.close(parent)


def _rmtree_directory(parent: int, name: bytes) -> None:
    # Most directories are empty.
    with suppress(OSError):
        os.rmdir(name, dir_fd=parent)
        return
    # The loop extends the list: each directory comes before those below it.
    found = [name]
    for path in found:
        fd = _open_writable(parent, path)
        try:
            with os.scandir(fd) as entries:
                children = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries]
            for child, is_directory in children:
                if is_directory and len(path) + len(child) < _LONGEST_PATH:
                    found.append(path + b"/" + child)
                elif is_directory:
                    _rmtree_directory(fd, child)
                else:
                    os.unlink(child, dir_fd=fd)
        finally:
            os.close(fd)
    for path in reversed(found):
        os.rmdir(path, dir_fd=parent)


def _open_writable(parent: int, path: bytes) -> int:
    handle = _native.openat2(
        parent,
        path,
        os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW,
        0,
        BENEATH | _native.RESOLVE_NO_XDEV,
    )
    try:
        if os.fstat(handle).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
    finally:
        os.close(handle)
