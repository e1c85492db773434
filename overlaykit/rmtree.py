"""Remove a tree, whatever is in it: unreadable and read-only directories, deep paths, symbolic links.

`shutil.rmtree` is not used: it stops at a directory of mode 0555 or 0000 and recurses as deep as the tree.
"""

from __future__ import annotations

import os

from overlaykit import _native

_BENEATH = _native.RESOLVE_BENEATH | _native.RESOLVE_NO_SYMLINKS | _native.RESOLVE_NO_XDEV


def rmtree(parent: int, name: bytes) -> None:
    """Remove `name` in the directory open as `parent`, and all below it. Its absence is not an error.

    Symbolic links are removed, never followed; a mount below is not entered. Directories are made
    writable on the way, as their owner may.

    Raises OSError: EXDEV at a mount, EPERM at what is not ours, and what unlinkat(2) gives.
    """
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        _rmtree_directory(parent, name)


def rmtree_path(path: str) -> None:
    """As `rmtree`, for a path, of which only the last name goes."""
    directory, name = os.path.split(path)
    parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rmtree(parent, os.fsencode(name))
    finally:
        os.close(parent)


def _rmtree_directory(parent: int, name: bytes) -> None:
    found = [name]
    for path in found:  # grows while we walk it: a directory always before those below it
        fd = _open_writable(parent, path)
        try:
            with os.scandir(fd) as entries:
                children = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries]
            for child, is_directory in children:
                if is_directory:
                    found.append(path + b"/" + child)
                else:
                    os.unlink(child, dir_fd=fd)
        finally:
            os.close(fd)
    for path in reversed(found):
        os.rmdir(path, dir_fd=parent)


def _open_writable(parent: int, path: bytes) -> int:
    handle = _native.openat2(
        parent, path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=_BENEATH
    )
    try:
        if os.fstat(handle).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
    finally:
        os.close(handle)
