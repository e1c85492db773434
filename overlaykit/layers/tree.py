"""The tree of a layer while it is made.

Files are created beneath one directory: parents are resolved with BENEATH, and the calls for the last name do not
follow symbolic links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from overlaykit import _native, privilege
from overlaykit.beneath import BENEATH
from overlaykit.rmtree import rmtree

_T = TypeVar("_T")

Finish: TypeAlias = Callable[[int], None]
"""Sets the contents, owner, mode and times of a new inode, given its descriptor.

The descriptor of a regular file is open for reading and writing, others are O_PATH."""

_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NOFOLLOW, which would give ENOTDIR for a symbolic link: BENEATH gives ELOOP.
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """The attributes of an inode. `owner` is numeric; None: the caller."""

    mode: int
    owner: tuple[int, int] | None
    mtime_ns: int
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)

    def apply(self, fd: int) -> None:
        """Set them on an inode; `fd` may be O_PATH, and a symbolic link."""
        # A magic link refers to the inode itself, also of a symbolic link.
        path = f"/proc/self/fd/{fd}"
        # chown(2) clears set-user-ID bits and file capabilities; a user xattr needs write permission, so the mode
        # is set after it; each call changes the times.
        if self.owner is not None:
            os.chown(path, *self.owner)
        for name, value in self.xattrs.items():
            os.setxattr(path, name, value)
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            os.chmod(path, self.mode)
        os.utime(path, ns=(self.mtime_ns, self.mtime_ns))


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The size of a tree: `bytes` in regular files (each inode once), `files` without directories."""

    bytes: int
    files: int


class Tree:
    """A directory that is being filled. Paths are relative bytes without `.` or `..`; b"" is the directory itself.

    A later file replaces an earlier one at the same path. Directories have mode 0700 until `seal`, so that read-only
    ones can be filled and keep their times.

    Attributes:
      root: the descriptor of the directory, owned by this object.
      keeps_owners: whether files get their owners; else they belong to the caller.
      withheld_xattrs: prefixes of xattrs that cannot be set, or must not be kept without the owner.

    Raises:
      OSError: in every method, ELOOP if a parent is a symbolic link, ENOTDIR if it is a file.
    """

    def __init__(self, fd: int) -> None:
        self.root = fd
        self.keeps_owners = privilege.gives_files_away()
        self.withheld_xattrs = self._withheld_xattrs()
        self._finish: dict[bytes, Finish] = {b"": _finish_implied}
        # The last parent: members of one directory usually follow one another.
        self._parent: tuple[bytes, int] | None = None

    def _withheld_xattrs(self) -> tuple[bytes, ...]:
        if not self.keeps_owners:
            return b"security.", b"trusted."
        return () if privilege.CAP_SYS_ADMIN in privilege.capabilities() else (b"trusted.",)

    def close(self) -> None:
        """Close the descriptors."""
        self._forget_parent()
        os.close(self.root)

    def directory(self, path: bytes, finish: Finish) -> None:
        """Make a directory, or keep an existing one; `seal` calls `finish`."""
        if path and not self._is_directory(path):
            self._create(path, lambda parent, name: os.mkdir(name, 0o700, dir_fd=parent))
        self._finish[path] = finish

    def file(self, path: bytes, finish: Finish) -> None:
        """Make an empty regular file and call `finish`."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = self._create(path, lambda parent, name: os.open(name, flags, 0o600, dir_fd=parent))
        try:
            finish(fd)
        finally:
            os.close(fd)

    def symlink(self, path: bytes, target: bytes, finish: Finish) -> None:
        """Make a symbolic link; its target is not checked."""
        self._create(path, lambda parent, name: os.symlink(target, name, dir_fd=parent))
        self._complete(path, finish)

    def node(self, path: bytes, kind: int, device: int, finish: Finish) -> None:
        """Make a FIFO, socket or device: `kind` is the S_IF* type, `device` its number or 0.

        Raises:
          OSError: EPERM for a device without CAP_MKNOD, except 0:0 (a whiteout; Linux 5.8).
        """
        self._create(path, lambda parent, name: os.mknod(name, kind | 0o600, device, dir_fd=parent))
        self._complete(path, finish)

    def link(self, path: bytes, existing: bytes) -> None:
        """Make a hard link to `existing`; do nothing if both are one path.

        Raises:
          OSError: ENOENT if `existing` is missing, EPERM if it is a directory.
        """
        if path == existing:
            return
        source = self._open(existing, _HANDLE)
        try:
            if stat.S_ISDIR(os.fstat(source).st_mode):
                raise PermissionError(1, os.strerror(1), existing)
            parent = self._open(os.path.dirname(existing), _DIRECTORY)
            try:
                name = os.path.basename(existing)
                self._create(
                    path,
                    lambda to, new: os.link(
                        name, new, src_dir_fd=parent, dst_dir_fd=to, follow_symlinks=False
                    ),
                )
            finally:
                os.close(parent)
        finally:
            os.close(source)

    def seal(self) -> Usage:
        """Finish the directories, deepest first, so that none changes afterwards."""
        # All directories are still readable.
        usage = self._usage()
        for path in sorted(self._finish, key=lambda p: p.count(b"/") + bool(p), reverse=True):
            self._complete(path, self._finish[path])
        return usage

    def _usage(self) -> Usage:
        size = files = 0
        seen: set[tuple[int, int]] = set()
        paths = [b""]
        for path in paths:
            fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            paths.append(os.path.join(path, os.fsencode(entry.name)))
                            continue
                        files += 1
                        inode = (status.st_dev, status.st_ino)
                        if stat.S_ISREG(status.st_mode) and inode not in seen:
                            seen.add(inode)
                            size += status.st_size
            finally:
                os.close(fd)
        return Usage(bytes=size, files=files)

    def _open(self, path: bytes, flags: int) -> int:
        return _native.openat2(self.root, path or b".", flags, 0, BENEATH)

    def _is_directory(self, path: bytes) -> bool:
        try:
            fd = self._open(path, _DIRECTORY)
        except FileNotFoundError:
            return False
        # ELOOP, ENOTDIR: another file is at the path, or above it, which the creation reports.
        except OSError:
            return False
        os.close(fd)
        return True

    def _complete(self, path: bytes, finish: Finish) -> None:
        parent, name = self._split(path)
        fd = os.open(name or b".", _HANDLE, dir_fd=parent)
        try:
            finish(fd)
        finally:
            os.close(fd)

    def _create(self, path: bytes, create: Callable[[int, bytes], _T]) -> _T:
        parent, name = self._split(path)
        try:
            return create(parent, name)
        except FileExistsError:
            rmtree(parent, name)
            for gone in [p for p in self._finish if p == path or p.startswith(path + b"/")]:
                del self._finish[gone]
            return create(parent, name)

    def _split(self, path: bytes) -> tuple[int, bytes]:
        """The descriptor of a path's parent, valid until the next call, and the last name; make missing parents."""
        directory, _, name = path.rpartition(b"/")
        if self._parent is None or self._parent[0] != directory:
            self._forget_parent()
            try:
                fd = self._open(directory, _DIRECTORY)
            except FileNotFoundError:
                self._make_missing(directory)
                fd = self._open(directory, _DIRECTORY)
            self._parent = (directory, fd)
        return self._parent[1], name

    def _make_missing(self, directory: bytes) -> None:
        path = b""
        fd = self._open(path, _DIRECTORY)
        for name in directory.split(b"/"):
            path = os.path.join(path, name)
            try:
                try:
                    os.mkdir(name, 0o700, dir_fd=fd)
                    self._finish[path] = _finish_implied
                except FileExistsError:
                    pass
                below = _native.openat2(fd, name, _DIRECTORY, 0, BENEATH)
            finally:
                os.close(fd)
            fd = below
        os.close(fd)

    def _forget_parent(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None


def _finish_implied(fd: int) -> None:
    # The mode of `mkdir -p`.
    os.chmod(f"/proc/self/fd/{fd}", 0o755)  # noqa: S103
