"""One opened directory of the stack, and the places below it.

Nothing here follows a symlink: a place is opened name by name below its parent's descriptor with openat2(2)'s
RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, however deep it lies, so a path longer than PATH_MAX is no matter. Descriptors
of places are a cache with a bound; a place reopens itself when it was evicted.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from overlaykit import _native

if TYPE_CHECKING:
    from overlaykit.overlay.descriptors import Descriptors
    from overlaykit.overlay.modes import Modes

T = TypeVar("T")

NEW_FILE: Final = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
INODE: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags of open(2): what lies under a name itself, a symlink too."""

_OPEN_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH: Final = _native.RESOLVE_BENEATH | _native.RESOLVE_NO_SYMLINKS

_FS_IOC_GETFSUUID: Final = 0x80111500  # include/uapi/linux/fs.h: _IOR(0x15, 0, struct fsuuid2)
_FSUUID2: Final = struct.Struct("B16s")
UNKNOWN_UUID: Final = bytes(16)

_READ_AT_ONCE: Final = 1 << 15
"""Bytes of a directory."""

_LISTING_INODES: Final = frozenset(
    (
        0xEF53,  # ext2, ext3, ext4
        0x01021994,  # tmpfs
        0x58465342,  # XFS
        0x9123683E,  # btrfs
        0xF2F52010,  # F2FS
        0x73717368,  # squashfs
        0xE0F5E1E2,  # EROFS
    )
)
"""The file systems (include/uapi/linux/magic.h) whose directories hold the inode numbers that stat(2) tells; others may
make up either."""


FUSE: Final = 0x65735546  # include/uapi/linux/magic.h


class Reader(Protocol):
    """Reads the daemon's own files past their modes, where it may, and changes nothing."""

    def run(self, action: Callable[[], T]) -> T: ...

    def open(self, action: Callable[[], int]) -> int:
        """`action` opens a descriptor."""


class Layer:
    """One directory of the stack: `index` 0 is the top; an upper is `writable`. Owns the descriptor `root`.

    `mounted_in`: the directories in which other mounts lie on something, as paths from its root; None: any may be.
    `idmapped`: the mount that it lies on has mapped its owners already, as `owners` would (podman 4 does so).
    `override`: the attribute that holds its files' owners and modes (see `overrides`), or None. `names_disk`: whether
    its file system is named by its uuid.
    `reader`: reads what modes keep us out of; None: nothing does.
    `modes`: widens those of its directories that keep us out; None where none may be: in lowers.
    """

    __slots__ = (
        "_file_systems",
        "_uuids",
        "descriptors",
        "idmapped",
        "index",
        "modes",
        "mounted_in",
        "names_disk",
        "override",
        "path",
        "reader",
        "root",
        "writable",
    )

    def __init__(
        self,
        fd: int,
        index: int,
        *,
        path: str,
        writable: bool,
        descriptors: Descriptors,
        mounted_in: frozenset[bytes] | None = None,
        idmapped: bool = False,
    ) -> None:
        self.index = index
        self.path = path
        self.writable = writable
        self.descriptors = descriptors
        self.mounted_in = mounted_in
        self.idmapped = idmapped
        self.root = LayerDir(self, None, b"", fd)
        self.override: bytes | None = None
        self.names_disk = True
        self.modes: Modes | None = None
        self.reader: Reader | None = None
        self._uuids: dict[int, bytes] = {}
        self._file_systems: dict[int, int] = {}

    def uuid(self, device: int, layer_dir: LayerDir) -> bytes:
        """The uuid of the file system `device` on which `layer_dir` lies (a layer may span several)."""
        if not self.names_disk:
            return UNKNOWN_UUID
        found = self._uuids.get(device)
        if found is None:
            found = self._uuids[device] = _file_system_uuid(layer_dir)
        return found

    def lists_inodes(self, device: int, layer_dir: LayerDir) -> bool:
        """Whether listing `layer_dir`, which is on the file system `device`, gives the inode numbers of stat(2)."""
        covered = self.mounted_in
        if covered is None or (covered and b"/".join(layer_dir.components()) in covered):
            return False  # listed is what the mount lies on
        return self._file_system(device, layer_dir) in _LISTING_INODES

    def lasting_handles(self, device: int, layer_dir: LayerDir) -> bool:
        """Whether a file handle names one inode for good there: those of FUSE hold a node id, which may be reused."""
        return self._file_system(device, layer_dir) != FUSE

    def _file_system(self, device: int, layer_dir: LayerDir) -> int:
        found = self._file_systems.get(device)
        if found is None:
            found = self._file_systems[device] = _native.fstatfs(layer_dir.fd())
        return found

    def read(self, action: Callable[[], T], dirfd: int, name: bytes = b"") -> T:
        """Run `action`, which only reads, and again by the reader where a mode of ours is in its way (EACCES).

        It reads the directory or file `dirfd`, or `name` in it.
        """
        try:
            return action()
        except PermissionError as error:
            return self._reader_past(error, dirfd, name).run(action)

    def open(self, action: Callable[[], int], dirfd: int, name: bytes = b"") -> int:
        """As `read`, for an action that opens a descriptor."""
        try:
            return action()
        except PermissionError as error:
            return self._reader_past(error, dirfd, name).open(action)

    def _reader_past(self, error: PermissionError, dirfd: int, name: bytes) -> Reader:
        """What reads past the mode that was in the way. Raises `error` again if there is nothing."""
        if self.reader is None or error.errno != errno.EACCES or not _is_ours(dirfd, name):
            raise error
        return self.reader

    def close(self) -> None:
        self.root.close()


class LayerDir:
    """A directory in one layer. In an upper `parent` and `name` follow renames; in a lower they never change.

    `whiteout_files`: whether some of a lower's empty files may be whiteouts; None until its marks are read.
    `impure`: an upper's directory is marked so (see `format`), as far as is known.
    """

    __slots__ = ("_fd", "impure", "layer", "name", "parent", "recent", "whiteout_files")

    def __init__(self, layer: Layer, parent: LayerDir | None, name: bytes, fd: int = -1) -> None:
        self.layer = layer
        self.parent = parent
        self.name = name
        self.recent = False
        self.whiteout_files: bool | None = None
        self.impure = False
        self._fd = fd

    def fd(self) -> int:
        """An O_PATH descriptor of the directory, valid until `Descriptors.trim`."""
        if self._fd < 0:
            self._reopen()
        self.recent = True
        modes = self.layer.modes
        if modes is not None and modes.active:
            modes.widen_directory(self, self._fd)
        return self._fd

    def proc_path(self, name: bytes = b"") -> bytes:
        """A path to `name` in this directory (or to itself) for the calls that take no descriptor."""
        if name:
            return b"/proc/self/fd/%d/%s" % (self.fd(), name)
        return b"/proc/self/fd/%d" % self.fd()

    def stat(self) -> os.stat_result:
        if self._fd < 0 and self.parent is not None:
            above = self.parent.fd()
            return self.layer.read(
                lambda: os.stat(self.name, dir_fd=above, follow_symlinks=False), above
            )
        return os.fstat(self.fd())

    def open_for_reading(self) -> int:
        """A readable descriptor of the directory, the caller's to close (for listing and fsync).

        To list it leaves its access time, where we may ask for that: a lower's mount may be one to write.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fd = self.fd()
        try:
            return os.open(b".", flags | os.O_NOATIME, dir_fd=fd)
        except PermissionError:  # the directory is another owner's, or its mode keeps us out
            return self.layer.open(lambda: os.open(b".", flags, dir_fd=fd), fd)

    def scan(self) -> Iterator[list[tuple[bytes, int, int]]]:
        """What is in it, in the kernel's order and in the portions it gives: names, the S_IFMT bits of their kinds (0
        where the file system does not say) and their inode numbers (d_ino)."""
        fd = self.open_for_reading()
        try:
            while entries := _native.getdents64(fd, _READ_AT_ONCE):
                yield entries
        finally:
            os.close(fd)

    def child(self, name: bytes) -> LayerDir:
        return LayerDir(self.layer, self, name)

    def components(self) -> list[bytes]:
        """The names from the layer's root to here."""
        names = []
        layer_dir = self
        while layer_dir.parent is not None:
            names.append(layer_dir.name)
            layer_dir = layer_dir.parent
        names.reverse()
        return names

    def path(self, name: bytes) -> bytes:
        """The path of something in it, from the layer's root."""
        return b"/".join([*self.components(), name])

    def evict(self) -> bool:
        os.close(self._fd)
        self._fd = -1
        return True

    def close(self) -> None:
        """Give the descriptor up for good: the place is gone."""
        if self._fd >= 0:
            if self.parent is not None:
                self.layer.descriptors.discard(self)
            self.evict()

    def orphan(self) -> LayerDir:
        """A place for the same directory that outlives its name: it holds its descriptor until closed."""
        return LayerDir(self.layer, None, b"", os.dup(self.fd()))

    def _reopen(self) -> None:
        chain = [self]
        layer_dir = self.parent
        while layer_dir is not None and layer_dir._fd < 0:
            chain.append(layer_dir)
            layer_dir = layer_dir.parent
        assert layer_dir is not None, "a layer's root is always open"
        modes = self.layer.modes
        if len(chain) > self.layer.descriptors.limit // 2 and not (modes and modes.active):
            self._reopen_alone(layer_dir._fd, chain)
            return
        for layer_dir in reversed(chain):
            assert layer_dir.parent is not None
            if modes is not None and modes.active:
                modes.widen_directory(layer_dir.parent, layer_dir.parent._fd)
            above = layer_dir.parent._fd
            action = functools.partial(
                _native.openat2, above, layer_dir.name, _OPEN_DIRECTORY, 0, _BENEATH
            )
            layer_dir._fd = self.layer.open(action, above)
            layer_dir.recent = True
            layer_dir.layer.descriptors.add(layer_dir)

    def _reopen_alone(self, fd: int, chain: list[LayerDir]) -> None:
        """Open the first of a `chain` of places upwards, whose last lies in `fd`, and keep none on the way open."""
        above = -1
        try:
            for layer_dir in reversed(chain):
                action = functools.partial(
                    _native.openat2, fd, layer_dir.name, _OPEN_DIRECTORY, 0, _BENEATH
                )
                fd, before = self.layer.open(action, fd), above
                above = fd
                if before >= 0:
                    os.close(before)
            self._fd, above = fd, -1
        finally:
            if above >= 0:
                os.close(above)
        self.layer.descriptors.add(self)


def _is_ours(dirfd: int, name: bytes) -> bool:
    """Whether a mode of our own can keep us out: that of the directory, or of what is in it."""
    try:
        uid = os.geteuid()
        if os.fstat(dirfd).st_uid == uid:
            return True
        return bool(name) and os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_uid == uid
    except OSError:
        return False


def _file_system_uuid(layer_dir: LayerDir) -> bytes:
    try:
        fd = layer_dir.open_for_reading()
    except PermissionError:  # a root closed to its owner
        return UNKNOWN_UUID
    try:
        raw = fcntl.ioctl(fd, _FS_IOC_GETFSUUID, bytes(_FSUUID2.size))
    except OSError:
        return UNKNOWN_UUID  # before Linux 6.9, or a file system without one
    finally:
        os.close(fd)
    length, uuid = _FSUUID2.unpack(raw)
    return uuid if length == len(uuid) else UNKNOWN_UUID
