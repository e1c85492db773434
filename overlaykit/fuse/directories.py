"""The directories of a mount, which the parent opens and hands over to the daemon.

The daemon resolves no path of its parent: relative paths, /proc/self and process substitution depend on the process,
and a name may lead elsewhere later. Messages show the path.
"""

from __future__ import annotations

import os

from overlaykit import _native, attributes, mountinfo
from overlaykit.errors import Error
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_AT_STATX_DONT_SYNC: Final = 0x4000  # include/uapi/linux/fcntl.h


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
    """Open a directory (O_PATH). Raises OSError: ENOTDIR and the like."""
    return os.open(path, _DIRECTORY)


def absolute(path: str) -> str:
    """The path from the root; unchanged if the working directory is deleted."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        return path


def lies_in_deleted_directory(path: str) -> bool:
    """Whether a path is relative to a deleted working directory."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return not os.path.isabs(path)
    return False


def real_path(fd: int) -> str:
    """The kernel's path of a descriptor; ends with " (deleted)" if it has none any more (proc(5))."""
    return os.readlink(f"/proc/self/fd/{fd}")


def device_of(fd: int) -> int:
    """The st_dev of a descriptor, without a request to its file system."""
    return attributes.statx(fd, b"", _native.AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, 0).dev


def shown_path(path: str, fd: int) -> str:
    """A path by which other processes find the directory `fd`, which `path` led to; `path` if there is none."""
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
    """As `shown_path`, for a directory that may not exist yet."""
    try:
        fd = open_directory(path)
    except OSError:
        return absolute(path)
    try:
        return shown_path(path, fd)
    finally:
        os.close(fd)


class Directories:
    """The directories that were handed over, by the paths that name them in a spec. Owns the descriptors."""

    def __init__(self) -> None:
        self._by_path: dict[str, int] = {}

    def add(self, path: str, fd: int) -> None:
        """Take over the descriptor of a directory that the parent has opened."""
        if path in self._by_path:
            os.close(fd)
        else:
            self._by_path[path] = fd

    def open(self, path: str) -> int:
        """A new O_PATH descriptor. Resolves a path that was not handed over. Raises OSError."""
        given = self._by_path.get(path)
        return open_directory(path) if given is None else os.dup(given)

    def close(self) -> None:
        """Close all descriptors."""
        while self._by_path:
            os.close(self._by_path.popitem()[1])


class Subtree(Record):
    """A directory by its file system and its path in that, independent of mounts."""

    device: int
    path: str

    def contains(self, other: Subtree) -> bool:
        """Whether `other` is this directory or lies below it."""
        is_below = other.path == self.path or mountinfo.below(other.path, self.path)
        return self.device == other.device and is_below


class MountTable:
    """The mounts of this mount namespace at one moment, to find where directories lie."""

    def __init__(self) -> None:
        self._mounts = {mount.id: mount for mount in mountinfo.current()}

    def find(self, fd: int) -> Subtree | None:
        """Where a directory lies; None if its mount is not in this mount namespace."""
        mount = self._mounts.get(_identity(fd)[0])
        path = real_path(fd)
        if mount is None or not (
            path == mount.mountpoint or mountinfo.below(path, mount.mountpoint)
        ):
            return None
        below = os.path.relpath(path, mount.mountpoint)
        return Subtree(mount.device, os.path.normpath(os.path.join(mount.root, below)))

    def below(self, fd: int) -> frozenset[bytes] | None:
        """The directories below one that contain mountpoints, from their names: some may not answer.

        None if no path of this mount namespace leads to it.
        """
        real = real_path(fd)
        try:
            if not os.path.samestat(os.stat(real), os.fstat(fd)):
                return None
        except OSError:
            return None
        mountpoints = (mount.mountpoint for mount in self._mounts.values())
        directories = {os.path.dirname(one) for one in mountpoints if mountinfo.below(one, real)}
        return frozenset(
            b"" if one == real else os.fsencode(os.path.relpath(one, real)) for one in directories
        )

    def contains(self, outer: int, inner: int) -> bool:
        """Whether the directory `inner` is `outer` or lies below it, even if mounts hide that from paths."""
        if _is_ancestor(outer, inner):
            return True
        above, below = self.find(outer), self.find(inner)
        return above is not None and below is not None and above.contains(below)


def _is_ancestor(outer: int, inner: int) -> bool:
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
    except PermissionError:
        # The paths remain.
        return mountinfo.below(real_path(inner), real_path(outer))
    finally:
        os.close(current)


def _identity(fd: int) -> tuple[int, int, int]:
    found = attributes.statx(fd, b"", _native.AT_EMPTY_PATH, _native.STATX_MNT_ID)
    return found.mnt_id, found.dev, found.ino
