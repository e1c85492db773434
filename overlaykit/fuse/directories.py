"""The directories of a mount, opened by the process that asks for it and handed over to the daemon.

The daemon resolves no path of its starter's: relative paths, /proc/self and process substitution mean the starter, and
a name may lead elsewhere a moment later. The path goes along to be shown.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from overlaykit import _native, mountinfo
from overlaykit.errors import Error

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class LayerUnusable(Error):
    message = "layer {0}: {1}: give a directory that can be read"


class UpperUnusable(Error):
    message = (
        "upper {0}: {1}: give a directory that can be written to, on a file system with extended "
        "attributes"
    )


class WorkUnusable(Error):
    message = (
        "work {0}: {1}: give an empty directory that can be written to, on the upper's file system"
    )


def open_directory(path: str) -> int:
    """An O_PATH descriptor of the directory that `path` leads to for this process.

    Raises OSError (ENOTDIR and the like).
    """
    return os.open(path, _DIRECTORY)


def absolute(path: str) -> str:
    """The path from the root; as it is if the working directory was deleted."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        return path


def lies_in_deleted_directory(path: str) -> bool:
    """Whether a path is relative to a working directory that was deleted."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return not os.path.isabs(path)
    return False


def real_path(fd: int) -> str:
    """Where the kernel says that a descriptor leads; ends with " (deleted)" if it has no name any more (proc(5))."""
    return os.readlink(f"/proc/self/fd/{fd}")


def shown_path(path: str, fd: int) -> str:
    """A path by which another process finds the directory `fd`, which `path` led to; `path` where there is none."""
    name, real = absolute(path), real_path(fd)
    for candidate in (name, real):
        try:
            found = _native.openat2(
                _native.AT_FDCWD, candidate, _DIRECTORY, 0, _native.RESOLVE_NO_MAGICLINKS
            )
        except OSError:
            continue
        try:
            if os.path.samestat(os.fstat(found), os.fstat(fd)):
                return candidate
        finally:
            os.close(found)
    return name


def lasting_path(path: str) -> str:
    """As `shown_path`, of a directory that may not be there yet."""
    try:
        fd = open_directory(path)
    except OSError:
        return absolute(path)
    try:
        return shown_path(path, fd)
    finally:
        os.close(fd)


class Directories:
    """Directories by the path that stands for them in a spec. Owns the descriptors that were handed over."""

    def __init__(self) -> None:
        self._by_path: dict[str, int] = {}

    def add(self, path: str, fd: int) -> None:
        """Take over the descriptor of a directory that a starter has opened."""
        if path in self._by_path:
            os.close(fd)
        else:
            self._by_path[path] = fd

    def open(self, path: str) -> int:
        """A descriptor of its own (O_PATH). A path that was not handed over is this process's own. Raises OSError."""
        given = self._by_path.get(path)
        return open_directory(path) if given is None else os.dup(given)

    def close(self) -> None:
        """Close all that were handed over."""
        while self._by_path:
            os.close(self._by_path.popitem()[1])


@dataclass(frozen=True, slots=True)
class Subtree:
    """Which file system a directory lies on, and where in it, whatever is mounted where."""

    device: int
    path: str

    def contains(self, other: Subtree) -> bool:
        """Whether the other is this one or lies below it."""
        is_below = other.path == self.path or mountinfo.below(other.path, self.path)
        return self.device == other.device and is_below


class MountTable:
    """Where directories lie, by the mounts of this mount namespace at one moment."""

    def __init__(self) -> None:
        self._mounts = {mount.id: mount for mount in mountinfo.current()}

    def find(self, fd: int) -> Subtree | None:
        """Where a directory lies; None if its mount is none of this mount namespace."""
        mount = self._mounts.get(_identity(fd)[0])
        path = real_path(fd)
        if mount is None or not (
            path == mount.mountpoint or mountinfo.below(path, mount.mountpoint)
        ):
            return None
        below = os.path.relpath(path, mount.mountpoint)
        return Subtree(mount.device, os.path.normpath(os.path.join(mount.root, below)))

    def contains(self, outer: int, inner: int) -> bool:
        """Whether the directory `inner` is `outer` or lies below it, also where mounts hide that from the names."""
        if _is_on_the_way_up(outer, inner):
            return True
        above, below = self.find(outer), self.find(inner)
        return above is not None and below is not None and above.contains(below)


def _is_on_the_way_up(outer: int, inner: int) -> bool:
    wanted = os.fstat(outer)
    current = os.dup(inner)
    try:
        while not os.path.samestat(os.fstat(current), wanted):
            above = os.open("..", _DIRECTORY, dir_fd=current)
            is_root = _identity(above) == _identity(current)
            os.close(current)
            current = above
            if is_root:
                return False
        return True
    except PermissionError:  # the names are left
        return mountinfo.below(real_path(inner), real_path(outer))
    finally:
        os.close(current)


def _identity(fd: int) -> tuple[int, int, int]:
    found = _native.statx(fd, b"", _native.AT_EMPTY_PATH, _native.STATX_MNT_ID)
    return found.mnt_id, found.dev, found.ino
