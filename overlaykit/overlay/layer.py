"""One layer of the stack, and the directories in it.

Nothing here follows a symlink. A directory is opened name by name below its parent's descriptor, with openat2(2)'s
RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, so that its path may be longer than PATH_MAX. The descriptors of directories
are a bounded cache: an evicted directory reopens itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from overlaykit import _native, attributes
from overlaykit.beneath import BENEATH
from overlaykit.lean import Protocol, partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final, TypeVar

    from overlaykit.overlay.descriptors import Descriptors
    from overlaykit.overlay.modes import Modes

    T = TypeVar("T")


_OPEN_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# include/uapi/linux/fs.h: _IOR(0x15, 0, struct fsuuid2)
_FS_IOC_GETFSUUID: Final = 0x80111500
_FSUUID2: Final = struct.Struct("B16s")
_EXT4_IOC_GETFSUUID: Final = 0x8008662C
_FSUUID: Final = struct.Struct("=II16s")
"""struct fsuuid of fs/ext4/ext4.h: length, flags, uuid."""
UNKNOWN_UUID: Final = bytes(16)

_LISTING_BYTES: Final = 1 << 15
"""Size of the buffer of one getdents64(2)."""

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
"""File systems (include/uapi/linux/magic.h) whose d_ino is the st_ino of stat(2). Others may make up either number."""

FUSE: Final = 0x65735546  # include/uapi/linux/magic.h
_TMPFS: Final = 0x01021994


class Reader(Protocol):
    """Runs calls that only read, with the right to read the daemon's own files of any mode."""

    def run(self, action: Callable[[], T]) -> T: ...

    def open(self, action: Callable[[], int]) -> int:
        """Run an `action` that opens a descriptor."""


class Layer:
    """One directory of the stack: `index` 0 is the top; an upper is `writable`. Owns the descriptor `root`.

    `number`: stays as it is when the stack changes.
    `lock`: a descriptor that keeps a lower from being removed, which it owns; -1: none.
    `frozen`: it is a lower that was an upper. `frozen_index`: then its index (see `work`), or None.
    `mounted_in`: its directories that contain a mountpoint, as paths from its root; None: any may.
    `idmapped`: its mount is idmapped, as `owners` would map (podman 4 does so).
    `live`: others may change it while it is merged.
    `override`: the attribute that holds its files' owners and modes (see `overrides`), or None.
    `names_disk`: whether origins name its file system by the uuid.
    `reader`: reads files whose modes deny it to the daemon; None: none.
    `modes`: widens modes of an upper that deny the daemon access; None in lowers.
    """

    __slots__ = (
        "_file_systems",
        "_lock",
        "_uuids",
        "descriptors",
        "frozen",
        "frozen_index",
        "idmapped",
        "index",
        "live",
        "modes",
        "mounted_in",
        "names_disk",
        "number",
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
        frozen: bool = False,
        index_fd: int = -1,
        lock: int = -1,
        live: bool = False,
    ) -> None:
        self.index = self.number = index
        self._lock = lock
        self.frozen = frozen
        self.path = path
        self.writable = writable
        self.descriptors = descriptors
        self.mounted_in = mounted_in
        self.idmapped = idmapped
        self.live = live
        self.root = LayerDir(self, None, b"", fd)
        self.frozen_index = None if index_fd < 0 else LayerDir(self, None, b"", index_fd)
        self.override: bytes | None = None
        self.names_disk = True
        self.modes: Modes | None = None
        self.reader: Reader | None = None
        self._uuids: dict[int, bytes] = {}
        self._file_systems: dict[int, int] = {}

    @property
    def of_view(self) -> bool:
        """Whether it holds what the view has changed: the upper, or one that was frozen."""
        return self.writable or self.frozen

    def uuid(self, device: int, layer_dir: LayerDir) -> bytes:
        """The uuid of the file system `device`, on which `layer_dir` lies (a layer may span several)."""
        if not self.names_disk:
            return UNKNOWN_UUID
        found = self._uuids.get(device)
        if found is None:
            found = self._uuids[device] = _file_system_uuid(layer_dir)
        return found

    def lists_inodes(self, device: int, layer_dir: LayerDir) -> bool:
        """Whether listing `layer_dir`, which is on the file system `device`, gives the inode numbers of stat(2)."""
        mounted_in = self.mounted_in
        if mounted_in is None or (mounted_in and b"/".join(layer_dir.components()) in mounted_in):
            return False  # d_ino is that of the mountpoint, st_ino that of the mount's root
        return self._file_system(device, layer_dir) in _LISTING_INODES

    def lasting_handles(self, device: int, layer_dir: LayerDir) -> bool:
        """Whether a file handle names one inode for good there. One of FUSE holds a nodeid, which may be reused."""
        return self._file_system(device, layer_dir) != FUSE

    def has_flusher(self, device: int, layer_dir: LayerDir) -> bool:
        """Whether the kernel writes changes of mapped files to a disk there, after which others have a new time."""
        return self._file_system(device, layer_dir) != _TMPFS

    def _file_system(self, device: int, layer_dir: LayerDir) -> int:
        found = self._file_systems.get(device)
        if found is None:
            found = self._file_systems[device] = attributes.file_system_of(layer_dir.fd())
        return found

    def read(self, action: Callable[[], T], dirfd: int, name: bytes = b"") -> T:
        """Run `action`, which only reads `dirfd` or `name` in it; run it again in the reader if a mode denies it.

        Raises: OSError; EACCES if the denying mode is not of a file of the daemon's, or there is no reader.
        """
        try:
            return action()
        except PermissionError as error:
            return self._reader_past(error, dirfd, name).run(action)

    def open(self, action: Callable[[], int], dirfd: int, name: bytes = b"") -> int:
        """Do as `read` for an action that opens a descriptor."""
        try:
            return action()
        except PermissionError as error:
            return self._reader_past(error, dirfd, name).open(action)

    def _reader_past(self, error: PermissionError, dirfd: int, name: bytes) -> Reader:
        """The reader for an action that failed with `error`. Raises `error` if it is no help."""
        if self.reader is None or error.errno != errno.EACCES or not _is_own(dirfd, name):
            raise error
        return self.reader

    def freeze(self, index: LayerDir | None) -> None:
        """Let an upper be a lower from now on. `index`: its index. The caller numbers the layers again."""
        self.writable = False
        self.frozen = True
        self.frozen_index = index
        self.modes = None

    def close(self) -> None:
        self.root.close()
        if self._lock >= 0:
            os.close(self._lock)
        if self.frozen_index is not None:
            self.frozen_index.close()


class LayerDir:
    """A directory in one layer. In an upper `parent` and `name` follow renames; in a lower they never change.

    `whiteout_files`: whether some empty files in it may be whiteouts; None until its markers are read.
    `impure`: the directory of an upper is known to be marked so (see `Markers.set_impure`).
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
        """A path to `name` in this directory, or to the directory, for calls that take no descriptor."""
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
        """Open a readable descriptor of the directory, for listing and fsync(2); the caller closes it.

        Listing through it does not change the access time (O_NOATIME), where the daemon owns the directory: a lower
        may lie on a writable mount.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fd = self.fd()
        try:
            return os.open(b".", flags | os.O_NOATIME, dir_fd=fd)
        except PermissionError:  # the directory is another owner's, or its mode denies it
            return self.layer.open(lambda: os.open(b".", flags, dir_fd=fd), fd)

    def scan(self) -> Iterator[list[tuple[bytes, int, int]]]:
        """List the directory in the kernel's order, one getdents64(2) at a time.

        Returns: names, the S_IFMT bits of their kinds (0: unknown) and their inode numbers (d_ino).
        """
        fd = self.open_for_reading()
        try:
            while entries := attributes.entries(fd, _LISTING_BYTES):
                yield entries
        finally:
            os.close(fd)

    def child(self, name: bytes) -> LayerDir:
        return LayerDir(self.layer, self, name)

    def components(self) -> list[bytes]:
        """The names on the path from the layer's root to this directory."""
        names = []
        layer_dir = self
        while layer_dir.parent is not None:
            names.append(layer_dir.name)
            layer_dir = layer_dir.parent
        names.reverse()
        return names

    def path(self, name: bytes) -> bytes:
        """The path of `name` in this directory, from the layer's root."""
        return b"/".join([*self.components(), name])

    def give_up(self) -> int:
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Close the descriptor for good: the directory is removed, or no node has it any more."""
        if self._fd >= 0:
            if self.parent is not None:
                self.layer.descriptors.discard(self)
            os.close(self.give_up())

    def orphan(self) -> LayerDir:
        """The same directory as one that outlives its name: its descriptor stays open until `close`."""
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
            action = partial(_native.openat2, above, layer_dir.name, _OPEN_DIRECTORY, 0, BENEATH)
            layer_dir._fd = self.layer.open(action, above)
            layer_dir.recent = True
            layer_dir.layer.descriptors.add(layer_dir)

    def _reopen_alone(self, fd: int, chain: list[LayerDir]) -> None:
        """Open the first directory of a `chain` upwards, whose last one lies in `fd`, and close those between."""
        above = -1
        try:
            for layer_dir in reversed(chain):
                action = partial(_native.openat2, fd, layer_dir.name, _OPEN_DIRECTORY, 0, BENEATH)
                fd, before = self.layer.open(action, fd), above
                above = fd
                if before >= 0:
                    os.close(before)
            self._fd, above = fd, -1
        finally:
            if above >= 0:
                os.close(above)
        self.layer.descriptors.add(self)


def _is_own(dirfd: int, name: bytes) -> bool:
    """Whether the daemon owns the directory, or the file `name` in it, so that their modes bind it as the owner."""
    try:
        uid = os.geteuid()
        if os.fstat(dirfd).st_uid == uid:
            return True
        return bool(name) and os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_uid == uid
    except OSError:
        return False


def has_file_system_uuid(fd: int) -> bool:
    """Whether the kernel tells the uuid of the open file's file system (FS_IOC_GETFSUUID)."""
    try:
        fcntl.ioctl(fd, _FS_IOC_GETFSUUID, bytes(_FSUUID2.size))
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        return False
    return True


def _file_system_uuid(layer_dir: LayerDir) -> bytes:
    try:
        fd = layer_dir.open_for_reading()
    except PermissionError:  # the mode of a root denies it to the owner
        return UNKNOWN_UUID
    try:
        raw = fcntl.ioctl(fd, _FS_IOC_GETFSUUID, bytes(_FSUUID2.size))
    except OSError:
        return _uuid_of_ext4(fd)  # before Linux 6.9, or a file system without one
    finally:
        os.close(fd)
    length, uuid = _FSUUID2.unpack(raw)
    return uuid if length == len(uuid) else UNKNOWN_UUID


def _uuid_of_ext4(fd: int) -> bytes:
    """What EXT4_IOC_GETFSUUID says (Linux 5.19), before the ioctl of all file systems."""
    try:
        raw = fcntl.ioctl(fd, _EXT4_IOC_GETFSUUID, _FSUUID.pack(len(UNKNOWN_UUID), 0, UNKNOWN_UUID))
    except OSError:
        return UNKNOWN_UUID
    length, _, uuid = _FSUUID.unpack(raw)
    return uuid if length == len(uuid) else UNKNOWN_UUID
