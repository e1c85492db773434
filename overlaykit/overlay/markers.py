"""Overlay markers on disk: whiteout, opaque, redirect, origin and the like. Only this module reads and writes them.

The markers written are the kernel's (Documentation/filesystems/overlayfs.rst, fs/overlayfs/overlayfs.h): the kernel's
overlayfs can mount our upper, and we its. Whiteouts are character devices 0:0. Every other marker is an extended
attribute under `trusted.overlay.`, or under `user.overlay.` without the privilege to write `trusted.`.

Where such a device cannot be made, a whiteout is an empty file with the attribute `overlay.whiteout`, in a directory
whose `overlay.opaque` is `x`. By the user's choice, markers are the AUFS names of OCI archives (`.wh.NAME`,
`.wh..wh..opq`). Every form is read in every layer, and fuse-overlayfs's `user.fuseoverlayfs.opaque` too. In an upper,
attributes count only under our own prefix and fuse-overlayfs's, which programs in the mount cannot write: they may set
the others, for an overlay that they keep there. Redirects are followed only under the prefix that we write: a user can
set `user.` attributes on a directory of their own, and must not point a privileged mount elsewhere.
"""

from __future__ import annotations

import errno
import os
import struct

from overlaykit import attributes, handles
from overlaykit.lean import NamedTuple
from overlaykit.overlay import features
from overlaykit.overlay.marker_names import AUFS_WHITEOUT, TRUSTED_PREFIX, USER_PREFIX
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

    from overlaykit.overlay.features import Features
FUSE_OVERLAYFS_PREFIX: Final = b"user.fuseoverlayfs."

OVERLAY_PREFIXES: Final = (TRUSTED_PREFIX, USER_PREFIX, FUSE_OVERLAYFS_PREFIX)
"""Attributes with these prefixes are markers: copy-up does not copy them."""

ESCAPED_PREFIXES: Final = tuple(prefix + b"overlay." for prefix in OVERLAY_PREFIXES)
"""Attributes with these prefixes are files' own: those that an overlay within the view sets (see `Markers.escape`)."""

ACCESS_ACL: Final = b"system.posix_acl_access"
"""The attribute of a file's access ACL (acl(5)); its mask is the mode's group bits."""

DEFAULT_ACL: Final = b"system.posix_acl_default"
"""The attribute of a directory's default ACL, which new files in it inherit (acl(5))."""

ACLS: Final = (ACCESS_ACL, DEFAULT_ACL)

AUFS_OPAQUE: Final = b".wh..wh..opq"

_FOREIGN_OPAQUE: Final = tuple(prefix + b"opaque" for prefix in OVERLAY_PREFIXES)
_FUSE_OVERLAYFS_OPAQUE: Final = FUSE_OVERLAYFS_PREFIX + b"opaque"

_HANDLE_HEADER: Final = struct.Struct("<BBBBB16s")
_CHANGED: Final = struct.Struct("<q")
_NOT_SURE: Final = -(1 << 63)
_COPIED: Final = struct.Struct("<I")
_HANDLE_VERSION: Final = 0
_HANDLE_MAGIC: Final = 0xFB
_LITTLE_ENDIAN: Final = 0
_HANDLE_LIMIT: Final = 255  # the length is one byte of the header


def is_aufs_name(name: bytes) -> bool:
    """Whether a name is an AUFS marker, not a file's name."""
    return name.startswith(AUFS_WHITEOUT)


class DirectoryMarkers(NamedTuple):
    """The markers of one layer's directory."""

    opaque: bool = False
    """The layers below show nothing in this directory."""
    whiteout_files: bool = False
    """Some empty files in it are whiteouts (the attribute form)."""
    redirect: bytes | None = None
    """The directory's path in the layers below: a name beside it, or a path from their roots (`/a/b`)."""


UNMARKED: Final = DirectoryMarkers()


class FileMarkers(NamedTuple):
    """Which markers a file of the upper has."""

    origin: bool = False
    metacopy: bool = False


NO_FILE_MARKERS: Final = FileMarkers()


class Metacopy(NamedTuple):
    """The marker of a file without data of its own: the kernel's `struct ovl_metacopy`.

    `algorithm`, `digest`: of the data by fs-verity, as in `struct fsverity_digest`; 0: none. `readable`: the data may
    be looked for.
    """

    algorithm: int = 0
    digest: bytes = b""
    readable: bool = True

    @classmethod
    def decode(cls, raw: bytes) -> Metacopy:
        """Parse an attribute's value: empty (before Linux 6.6), or version, length, flags, algorithm and digest."""
        if not raw:
            return NO_DIGEST
        if len(raw) < _METACOPY_HEADER.size:
            return UNREADABLE
        version, length, _flags, algorithm = _METACOPY_HEADER.unpack_from(raw)
        if version != 0 or length != len(raw):
            return UNREADABLE
        return cls(algorithm, raw[_METACOPY_HEADER.size :] if algorithm else b"")


NO_DIGEST: Final = Metacopy()
UNREADABLE: Final = Metacopy(readable=False)
_METACOPY_HEADER: Final = struct.Struct("<BBBB")
TRUSTED_METACOPY: Final = TRUSTED_PREFIX + b"metacopy"


class Origin(NamedTuple):
    """The lower inode that an upper one was copied from: a file handle and the file system it is valid on.

    The layout is the kernel's `struct ovl_fb`; the uuid is that of the lower's file system, zeros if unknown.
    `changed_ns`: the inode's change time when it was copied, if that is known for sure. `copied`: when that was, in
    seconds since the epoch; 0: not known. `program`: the name of the program that it was copied for, or empty. These
    stand behind the structure, where the kernel reads nothing (ovl_check_fb_len, fs/overlayfs/namei.c); with a name of
    15 bytes the attribute just fits into an inode of ext4, whose attributes need no block of their own then.
    """

    type: int
    uuid: bytes
    handle: bytes
    changed_ns: int | None = None
    copied: int = 0
    program: bytes = b""

    def encode(self) -> bytes:
        """The kernel's structure."""
        length = _HANDLE_HEADER.size + len(self.handle)
        return (
            _HANDLE_HEADER.pack(
                _HANDLE_VERSION, _HANDLE_MAGIC, length, _LITTLE_ENDIAN, self.type, self.uuid
            )
            + self.handle
        )

    def encode_with_note(self) -> bytes:
        """The kernel's structure, and behind it what is known of the copy."""
        value = self.encode()
        if self.changed_ns is not None or self.copied:
            value += _CHANGED.pack(_NOT_SURE if self.changed_ns is None else self.changed_ns)
        if self.copied:
            value += _COPIED.pack(self.copied) + self.program
        return value

    @classmethod
    def decode(cls, raw: bytes) -> Origin | None:
        """Parse an attribute's value; None for the kernel's "unknown" (an empty value) and for garbage."""
        if len(raw) <= _HANDLE_HEADER.size:
            return None
        version, magic, length, _flags, kind, uuid = _HANDLE_HEADER.unpack_from(raw)
        if version != _HANDLE_VERSION or magic != _HANDLE_MAGIC:
            return None
        if not _HANDLE_HEADER.size < length <= len(raw):
            return None
        more = raw[length:]
        handle = raw[_HANDLE_HEADER.size : length]
        if len(more) < _CHANGED.size:
            return cls(kind, uuid, handle)
        (changed_ns,) = _CHANGED.unpack_from(more)
        found = cls(kind, uuid, handle, None if changed_ns == _NOT_SURE else changed_ns)
        more = more[_CHANGED.size :]
        if len(more) < _COPIED.size:
            return found
        return found._replace(copied=_COPIED.unpack_from(more)[0], program=more[_COPIED.size :])

    def inode_number(self) -> int | None:
        """The lower's inode number, if handles of this type hold it (include/linux/exportfs.h)."""
        words = len(self.handle) // 4
        if self.type == 0x01 and words == 2:  # FILEID_INO32_GEN: ext4 and most others
            return int.from_bytes(self.handle[:4], "little")
        if self.type == 0x01 and words == 3:  # tmpfs: generation, then the number's two halves
            return int.from_bytes(self.handle[4:12], "little")
        if self.type in (0x81, 0x4D) and words >= 2:  # XFS, btrfs
            return int.from_bytes(self.handle[:8], "little")
        return None

    def index_name(self) -> bytes:
        """The name of this inode's entry in the index, in the kernel's format."""
        return self.encode().hex().encode()


def find_origin(dirfd: int, name: bytes, uuid: bytes) -> Origin | None:
    """The origin that names the inode `name`; None where the file system has no file handles."""
    try:
        kind, handle, _ = handles.fields_of(dirfd, name)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EOVERFLOW, errno.EPERM, errno.ENOSYS):
            return None
        raise
    if not 0 <= kind <= 0xFF or len(handle) + _HANDLE_HEADER.size > _HANDLE_LIMIT:
        return None
    return Origin(kind, uuid, handle)


_NO_ORIGIN: Final = (errno.ESTALE, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def origin_link_count(root: int, origin: Origin) -> int | None:
    """The link count of an origin on the file system of the open directory `root`.

    Returns: None if the inode is gone, or without CAP_DAC_READ_SEARCH (open_by_handle_at(2)).
    """
    try:
        inode = handles.opened(root, origin.type, origin.handle, os.O_PATH)
    except OSError as error:
        if error.errno in _NO_ORIGIN:
            return None
        raise
    try:
        return os.fstat(inode).st_nlink
    finally:
        os.close(inode)


class Markers:
    """Reads markers of every form; writes the kernel's, under `prefix` (`TRUSTED_PREFIX` or `USER_PREFIX`).

    `attributes`: the upper can hold them. `names`: a directory is marked opaque by the AUFS file in it. `recorded`: the
    features of the upper; None: it keeps no record.
    """

    def __init__(
        self,
        prefix: bytes,
        *,
        attributes: bool = True,
        names: bool = False,
        recorded: Features | None = None,
    ) -> None:
        self.prefix = prefix
        self.attributes = attributes
        self._recorded = recorded
        self._names = names
        self._whiteout = prefix + b"whiteout"
        self._opaque = prefix + b"opaque"
        self._redirect = prefix + b"redirect"
        self._origin = prefix + b"origin"
        self._first = prefix + b"first"
        self._impure = prefix + b"impure"
        self._nlink = prefix + b"nlink"
        self._metacopy = prefix + b"metacopy"
        self._escapes = {one: one + b"overlay." for one in (prefix, FUSE_OVERLAYFS_PREFIX)}
        self._prefixes = tuple(self._escapes)
        self._escaped = tuple(self._escapes.values())

    # Directories. `path` is /proc/self/fd/N.

    def of_directory(self, path: bytes, *, upper: bool) -> DirectoryMarkers:
        """Read a directory's attributes; `upper`: it is the upper's, where not every prefix counts.

        A directory without attributes, as most are, costs one system call.
        """
        try:
            names = os.listxattr(path)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return UNMARKED
            raise
        if not names:
            return UNMARKED
        opaque = whiteout_files = False
        redirect = None
        for text in names:
            name = os.fsencode(text)
            if name in (self._opaque, _FUSE_OVERLAYFS_OPAQUE) or (
                not upper and name in _FOREIGN_OPAQUE
            ):
                value = os.getxattr(path, name)
                opaque = opaque or value == b"y"
                whiteout_files = whiteout_files or value == b"x"
            elif name == self._redirect:
                redirect = os.getxattr(path, name)
        return DirectoryMarkers(opaque, whiteout_files, redirect)

    def set_opaque(self, path: bytes) -> None:
        if self._names:
            name = os.path.join(path, AUFS_OPAQUE)
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
        else:
            os.setxattr(path, self._opaque, b"y")

    def set_whiteout_files(self, path: bytes) -> None:
        """Mark the directory as one in which some empty files are whiteouts."""
        os.setxattr(path, self._opaque, b"x")

    def record(self, feature: str) -> None:
        """Record that the upper has a feature, which is used for the first time only after that (see `features`)."""
        if self._recorded is not None:
            self._recorded.add(feature)

    def record_in(self, recorded: Features | None) -> None:
        """Record features of another upper from now on."""
        self._recorded = recorded

    @property
    def recorded(self) -> frozenset[str] | None:
        """The recorded features of the upper; None: it keeps no record."""
        return None if self._recorded is None else self._recorded.names

    def set_redirect(self, path: bytes, target: bytes) -> None:
        self.record(features.REDIRECT)
        os.setxattr(path, self._redirect, target)

    def set_impure(self, path: bytes) -> None:
        """Mark the directory as one that holds files with an origin: the kernel then corrects d_ino in its listing."""
        if self.attributes:
            os.setxattr(path, self._impure, b"y")

    def is_impure(self, path: bytes) -> bool:
        """Whether the directory may hold files with an origin, whose d_ino is not the inode number shown.

        Raises: PermissionError if the directory's mode denies reading the attribute.
        """
        return attributes.xattr_or_none(path, self._impure) is not None

    # Files. `path` is /proc/self/fd/N, or with `follow` false a path to the name.

    def set_whiteout(self, path: bytes | int) -> None:
        """Make an empty file a whiteout.

        Requires: `set_whiteout_files` has marked its directory.
        """
        os.setxattr(path, self._whiteout, b"y")

    def is_whiteout_file(self, path: bytes, *, upper: bool) -> bool:
        prefixes = (self.prefix,) if upper else (TRUSTED_PREFIX, USER_PREFIX)
        return any(
            _get(path, prefix + b"whiteout", follow=False) is not None for prefix in prefixes
        )

    def origin(self, path: bytes) -> Origin | None:
        """Read a file's origin.

        Raises: PermissionError if the file's mode denies it.
        """
        raw = attributes.xattr_or_none(path, self._origin, follow_symlinks=False)
        return None if raw is None else Origin.decode(raw)

    def set_origin(self, path: bytes | int, origin: Origin, *, follow: bool = True) -> None:
        """Set a file's origin, with what it says of the copy.

        Symlinks and devices, which hold no `user.` attribute, get none, as in the kernel.
        """
        if not self.attributes:
            return
        try:
            os.setxattr(path, self._origin, origin.encode_with_note(), follow_symlinks=follow)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise

    def first_origin(self, path: bytes) -> Origin | None:
        """Read what a file was copied from at first, of which frozen layers hold copies: its number is that one's."""
        raw = attributes.xattr_or_none(path, self._first, follow_symlinks=False)
        return self.origin(path) if raw is None else Origin.decode(raw)

    def set_first_origin(self, path: bytes, origin: Origin) -> None:
        """Set it where the origin is another one. Symlinks and devices get none, as of `set_origin`."""
        with suppress(OSError):
            os.setxattr(path, self._first, origin.encode())

    def of_file(self, path: bytes) -> FileMarkers:
        """Which markers a file of the upper has. Their values are read apart, and only where they matter.

        A file without attributes costs one system call.
        """
        names = xattr_names(path, follow=False)
        if not names:
            return NO_FILE_MARKERS
        return FileMarkers(origin=self.has_origin(names), metacopy=self.has_metacopy(names))

    def has_origin(self, names: Sequence[bytes]) -> bool:
        """Whether an origin is among the names of a file's attributes."""
        return self._origin in names

    def has_metacopy(self, names: Sequence[bytes]) -> bool:
        """Whether the marker of a metacopy is among the names of a file's attributes."""
        # Under the other prefix it is not followed, but the file must not read as zeros.
        return self._metacopy in names or TRUSTED_METACOPY in names

    def metacopy(self, path: bytes, *, follow: bool = False) -> Metacopy | None:
        """Read the marker of a file whose data are in a layer below; None if it has none."""
        raw = _get(path, self._metacopy, follow=follow)
        if raw is not None:
            return Metacopy.decode(raw) if self.prefix == TRUSTED_PREFIX else UNREADABLE
        if (
            self.prefix != TRUSTED_PREFIX
            and _get(path, TRUSTED_METACOPY, follow=follow) is not None
        ):
            return UNREADABLE
        return None

    def set_metacopy(self, path: bytes, *, recorded: bool = True) -> None:
        """Mark a file as one whose data are in a layer below. Requires: the prefix is `trusted.overlay.`.

        `recorded`: whether it is to be one of the upper's.
        """
        if recorded:
            self.record(features.METACOPY)
        os.setxattr(path, self._metacopy, b"")

    def remove_metacopy(self, fd: int) -> None:
        """Let a file's own data count. Requires: they are on the disk, as far as the mount syncs."""
        os.removexattr(fd, self._metacopy)

    def file_redirect(self, path: bytes) -> bytes | None:
        """Read where the layers below hold a metacopy's data; None: under the file's own name."""
        return _get(path, self._redirect, follow=False)

    def set_file_redirect(self, path: bytes, target: bytes, *, follow: bool) -> None:
        """Set where the layers below hold a metacopy's data. `target`: as of a directory."""
        os.setxattr(path, self._redirect, target, follow_symlinks=follow)

    def link_count(self, path: bytes, *, upper: int, lower: Callable[[], int | None]) -> int | None:
        """The link count of an indexed file, stored as a difference to the upper's ("U+1") or the lower's ("L-1").

        Returns: None if none is stored, or if it is relative to a lower's count that is not known.
        Raises: PermissionError if the file's mode denies reading it.
        """
        raw = attributes.xattr_or_none(path, self._nlink, follow_symlinks=False)
        if raw is None or raw[:1] not in (b"U", b"L"):
            return None
        try:
            difference = int(raw[1:])
        except ValueError:
            return None
        links = upper if raw[:1] == b"U" else lower()
        return None if links is None else links + difference

    def set_link_count(
        self, path: bytes, difference: int, *, to_upper: bool, follow: bool = False
    ) -> None:
        """Store the link count of an indexed file as a difference to that of its upper or of its lower."""
        value = (b"U%+d" if to_upper else b"L%+d") % difference
        os.setxattr(path, self._nlink, value, follow_symlinks=follow)

    # Programs in a view do not see markers. An attribute that they set under such a name is stored under an escaped
    # one, so that an overlay can be mounted on the view, as in the kernel.

    def is_marker(self, name: bytes) -> bool:
        """Whether a stored attribute is a marker, which programs do not see."""
        return name.startswith(self._prefixes) and not name.startswith(self._escaped)

    def escape(self, name: bytes) -> bytes:
        """The stored name of a program's attribute."""
        for prefix, escaped in self._escapes.items():
            if name.startswith(prefix):
                return escaped + name[len(prefix) :]
        return name

    def unescape(self, name: bytes) -> bytes:
        """The name that programs see of a stored attribute."""
        for prefix, escaped in self._escapes.items():
            if name.startswith(escaped):
                return prefix + name[len(escaped) :]
        return name


def xattr_names(path: bytes | int, *, follow: bool = True) -> list[bytes]:
    """The names of a file's attributes; none where its file system has no attributes.

    `path`: or an open descriptor, which costs a quarter.
    """
    try:
        names = os.listxattr(path, follow_symlinks=follow)
        return [os.fsencode(name) for name in names] if names else []
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def _get(path: bytes | int, name: bytes, *, follow: bool) -> bytes | None:
    try:
        return attributes.xattr_or_none(path, name, follow)
    except PermissionError:  # a file that the daemon may not read has no marker
        return None
