"""A change: what one path was in the layers below, and what it is now.

Paths are bytes from the root of the view, without a leading slash; that of the root is empty.
"""

from __future__ import annotations

import errno
import os
import stat

from overlaykit import attributes
from overlaykit.beneath import INODE
from overlaykit.lean import partial
from overlaykit.overlay.markers import xattr_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Final, Literal, TypeVar

    from overlaykit.changes.folding import Inside
    from overlaykit.overlay.layer import LayerDir

    T = TypeVar("T")
    Kind = Literal["added", "changed", "deleted", "renamed", "replaced"]
    """`replaced`: by a file of another type. A path may be deleted, and another file renamed to it."""
    Aspect = Literal[
        "content", "size", "mode", "owner", "times", "xattrs", "acl", "device", "links"
    ]
    """What of a file differs. `content`: also a symlink's target. `times`: the modification time. `links`: it is a name
    of another file now (see `Change.link`)."""


STATE: Final = b".overlaykit-apply"
"""The directory in the root of a target of `apply`: journals, and what was displaced. No change of a view is in it."""


# No dataclass: its import takes longer than the comparison of a few files.
class Version:
    """A file as one side has it. What is on disk is read when it is asked for, and may have changed since.

    `layer_dir`, `name`: where the inode lies; the name of a root is empty.
    `stat`: the inode's; `mode`, `uid`, `gid` are those that the view shows.
    `data`: the directory and the name of the file that holds the data of a metacopy; a directory of None: out of reach.
    `links`: how many names the view shows of the file, where it is known better than `stat` says.
    `attributes`: the names of its attributes on disk, markers too, once they were read.
    `closed`: the mode of the directory that holds it denies reading it, as was seen.
    """

    __slots__ = (
        "attributes",
        "closed",
        "data",
        "gid",
        "layer_dir",
        "links",
        "mode",
        "name",
        "stat",
        "uid",
    )

    def __init__(
        self,
        layer_dir: LayerDir,
        name: bytes,
        stat: os.stat_result,
        mode: int,
        uid: int,
        gid: int,
        data: tuple[LayerDir | None, bytes] | None = None,
        links: int | None = None,
        attributes: list[bytes] | None = None,
        closed: bool = False,
    ) -> None:
        self.layer_dir = layer_dir
        self.name = name
        self.stat = stat
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.data = data
        self.links = links
        self.attributes = attributes
        self.closed = closed

    def with_mode(self, mode: int) -> Version:
        """The same file, shown with another mode."""
        return Version(
            self.layer_dir,
            self.name,
            self.stat,
            mode,
            self.uid,
            self.gid,
            self.data,
            self.links,
            self.attributes,
            self.closed,
        )

    def with_group(self, gid: int) -> Version:
        """The same file, shown with another group."""
        same = self.with_mode(self.mode)
        same.gid = gid
        return same

    @property
    def type(self) -> int:
        """The S_IFMT bits of its mode."""
        return stat.S_IFMT(self.mode)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def size(self) -> int:
        return self.stat.st_size

    @property
    def device(self) -> int:
        """The device number of a device, else 0."""
        return self.stat.st_rdev if self.type in (stat.S_IFCHR, stat.S_IFBLK) else 0

    @property
    def inode(self) -> tuple[int, int]:
        """The device and number of the inode that holds it."""
        return self.stat.st_dev, self.stat.st_ino

    @property
    def path(self) -> bytes:
        """A path to the inode for system calls, valid until the next change is read. Its last name is no symlink that
        may be followed."""
        return self.layer_dir.proc_path(self.name)

    @property
    def real_path(self) -> str:
        """The path on disk, for messages."""
        names = [os.fsdecode(name) for name in (*self.layer_dir.components(), self.name) if name]
        return os.path.join(self.layer_dir.layer.path, *names)

    def attribute_names(self) -> list[bytes]:
        """The names of its attributes on disk, markers too. Read once. Raises: OSError."""
        if self.attributes is None:
            try:
                self.attributes = self._attribute_names()
            except PermissionError:
                self.closed = True
                self.attributes = self.read(self._attribute_names)
        return self.attributes

    def _attribute_names(self) -> list[bytes]:
        above = self.layer_dir.fd()
        if not self.name:
            return xattr_names(self.layer_dir.proc_path())
        return attributes.xattr_names_at(above, self.name)

    def read(self, action: Callable[[], T]) -> T:
        """Run an action that only reads the inode, with the right to do so if it is the user's own (`reader`).

        Raises: OSError: as the action.
        """
        layer, st = self.layer_dir.layer, self.stat
        is_closed = self.closed or not (st.st_mode & stat.S_IRUSR or stat.S_ISLNK(st.st_mode))
        if is_closed and layer.reader is not None and st.st_uid == os.geteuid():
            return layer.reader.run(action)
        return layer.read(action, self.layer_dir.fd(), self.name)

    def open(self) -> int:
        """Open the data of a regular file for reading; the caller closes it.

        Raises: OSError: ENOENT or ESTALE if it has gone, ELOOP if a symlink or ENXIO if a socket has its name now, EIO
        for a metacopy whose data are out of reach.
        """
        holder, name = (self.layer_dir, self.name) if self.data is None else self.data
        if holder is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fsdecode(self.name))
        above = holder.fd()
        try:
            fd = os.open(name, _OWN_FLAGS, dir_fd=above)
        except PermissionError:  # another owner's
            again = partial(os.open, name, _FLAGS, dir_fd=above)
            fd = holder.layer.open(again, above, name)
        if self.attributes is None and self.data is None:  # an open file tells them fastest
            self.attributes = xattr_names(fd)
        return fd

    def readlink(self) -> bytes:
        """The target of a symlink. Raises: OSError."""
        above = self.layer_dir.fd()
        return self.read(lambda: os.readlink(self.name, dir_fd=above))

    def open_inode(self) -> int:
        """Open the inode as O_PATH; the caller closes it. Raises: OSError."""
        above = self.layer_dir.fd()
        if not self.name:
            return os.dup(above)
        return self.layer_dir.layer.open(
            lambda: os.open(self.name, INODE, dir_fd=above), above, self.name
        )


_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OWN_FLAGS: Final = _FLAGS | os.O_NOATIME


class Change:
    """One path that differs.

    `path`: in the view. `old_path`: where the layers below have it, which is another path if it was renamed, or a
    directory above it was; None: it was added.
    `old`, `new`: both sides; None: there is no such file.
    `what`: in which aspects a `changed` or `renamed` file differs; only the times: it was touched (see `is_touch`).
    `opaque`: a directory that shows nothing of the one it was: what that held and this one does not is deleted.
    `link`: the path of another name of the same file; None for the first one, and for files with one name.
    `kept`: ACLs that the upper cannot hold, which the file has all the same (`Side.lost_acls`).
    `inside`: of an added directory that was asked for as one, all that it holds, which are no changes of their own.
    `xattrs`: the attributes that were set, removed (None) or changed, by the names that programs see, with those of
    ACLs and capabilities; of an added file all that it has.

    A deleted directory is one change: `Comparison.held` lists what it held. Files of a renamed directory are changes
    only if they differ themselves.
    """

    __slots__ = (
        "inside",
        "kept",
        "kind",
        "link",
        "new",
        "old",
        "old_path",
        "opaque",
        "path",
        "what",
        "xattrs",
    )

    def __init__(
        self,
        *,
        path: bytes,
        kind: Kind,
        old_path: bytes | None = None,
        old: Version | None = None,
        new: Version | None = None,
        what: frozenset[Aspect] = frozenset(),
        opaque: bool = False,
        link: bytes | None = None,
        xattrs: Mapping[bytes, bytes | None] | None = None,
        kept: Mapping[bytes, bytes] | None = None,
        inside: Inside | None = None,
    ) -> None:
        self.path = path
        self.kind = kind
        self.old_path = old_path
        self.old = old
        self.new = new
        self.what = what
        self.opaque = opaque
        self.link = link
        self.xattrs = xattrs or {}
        self.kept = kept or {}
        self.inside = inside

    @property
    def is_touch(self) -> bool:
        """Whether nothing but the modification time differs."""
        return self.kind == "changed" and self.what == {"times"}
