"""Where the content of nodes lies in the layers, and its attributes.

The modules beside this one (lookup, creation, removal, renaming, links, changing, xattrs, files) build on it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from overlaykit import _native
from overlaykit.beneath import INODE
from overlaykit.overlay import began, originals, overrides
from overlaykit.overlay.attributes import Attributes
from overlaykit.overlay.failure import fail
from overlaykit.overlay.faults import reach
from overlaykit.overlay.location import Location
from overlaykit.overlay.nodes import Directory, File
from overlaykit.overlay.operation import operation
from overlaykit.scope import suppress

if TYPE_CHECKING:
    from overlaykit.overlay.copyup import CopyUp, Origins
    from overlaykit.overlay.layer import Layer, LayerDir
    from overlaykit.overlay.lookup import Metacopies
    from overlaykit.overlay.markers import Markers
    from overlaykit.overlay.merge import Merge
    from overlaykit.overlay.nodes import Node, Table
    from overlaykit.overlay.owners import Owners
    from overlaykit.overlay.quota import Quota
    from overlaykit.overlay.whiteouts import Whiteouts
    from overlaykit.overlay.work import Work

TOO_LONG: Final = (errno.ENAMETOOLONG, errno.ERANGE, errno.E2BIG, errno.ENOSPC)
"""What setxattr(2) answers where an attribute has no room."""

_FORGOTTEN: Final = (errno.ENOENT, errno.ESTALE)
"""What a FUSE file system may answer for an inode without a name."""


def _in_lower(layer_dir: LayerDir, name: bytes) -> Location:
    return Location(layer_dir.fd(), name, follow=False, lower=layer_dir.layer)


class Tree:
    """The nodes and the layers behind them.

    Attributes: `table` owns the nodes, `merge` reads the layers; `copyup`, `work` and `whiteouts` change the upper;
    `quota` limits what that takes, if it is not None. `metacopies` finds data that are apart from their metadata.
    `origins`: of the lowers.
    """

    def __init__(
        self,
        layers: list[Layer],
        table: Table,
        merge: Merge,
        markers: Markers,
        owners: Owners,
        copyup: CopyUp | None,
        whiteouts: Whiteouts | None,
        metacopies: Metacopies,
        origins: Origins,
        quota: Quota | None = None,
    ) -> None:
        self.layers = layers
        self.table = table
        self.merge = merge
        self.markers = markers
        self.owners = owners
        self.quota = quota
        self.metacopies = metacopies
        self.origins = origins
        self._copyup = copyup
        self._whiteouts = whiteouts
        self.modes = None if copyup is None else copyup.modes
        upper = layers[0].root if layers[0].writable else None
        lowers = tuple(layer.root for layer in layers if not layer.writable)
        self.root = Directory(None, b"", upper, merge.down_to_opaque(lowers))
        table.add_root(self.root)

    # Where content lies

    def location(self, node: Node) -> Location:
        """Raises OSError (ESTALE) if the inode is out of reach."""
        if isinstance(node, Directory):
            return Location(_native.AT_FDCWD, node.top.proc_path(), follow=True)
        if node.has_upper:
            return self.copyup.upper_location(node)
        if node.lower_dir is not None:
            return _in_lower(node.lower_dir, node.lower_name)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def data_location(self, node: File) -> Location:
        """As `location`, for a file's data. Raises OSError: EIO for a metacopy whose data are out of reach."""
        if node.data is not None:
            if node.data.layer_dir is None:
                fail(errno.EIO)
            return _in_lower(node.data.layer_dir, node.data.name)
        return self.writable_location(node)

    def writable_location(self, node: Node) -> Location:
        """As `location`, for reading and writing the inode itself. Widens its mode if modes are being widened."""
        location = self.location(node)
        if self.modes is not None and isinstance(node, File) and node.has_upper:
            self.modes.widen(location.dirfd, location.name, follow=location.follow)
        return location

    def show_mode(self, location: Location) -> None:
        """Restore the mode of an inode if it is widened. Requires: called before the mode is changed."""
        if self.modes is not None and self.modes.active:
            self.modes.restore(location.stat())

    def stat(self, node: Node) -> os.stat_result:
        """The attributes of a node's inode; those last seen if its last known name is gone. Raises OSError (ESTALE)."""
        try:
            if isinstance(node, Directory):
                return node.top.stat()
            if node.inode >= 0:
                return os.fstat(node.inode)
            return self.location(node).stat()
        except OSError as error:
            if node.last_seen is None or error.errno not in _FORGOTTEN:
                raise
            return node.last_seen

    @operation
    def attributes(self, node: Node, st: os.stat_result | None = None) -> Attributes:
        """A node's attributes. `st`: its inode's, if they were just read. Raises OSError (ESTALE)."""
        if st is None:
            st = self.stat(node)
        if isinstance(node, Directory):
            links = 0 if node.orphaned else 1 if node.merged else st.st_nlink
        elif node.link_count is not None:
            links = node.link_count
        elif st is node.last_seen:
            links = 0
        elif node.has_upper or node.links:
            links = st.st_nlink
        else:
            links = 0
        mode = st.st_mode if self.modes is None else self.modes.shown(st)
        uid, gid = st.st_uid, st.st_gid
        layer = self.layer_of(node)
        name = self.override_name(node)
        if name is not None:
            override = self.override(node, name)
            if override is not None:
                uid, gid = override.uid, override.gid
                mode = stat.S_IFMT(mode) | override.mode
        uid, gid = self.owners.shown(uid, gid, in_upper=layer.writable, idmapped=layer.idmapped)
        return Attributes(
            node.nodeid,
            node.inode_number,
            node.generation,
            st,
            mode,
            links,
            uid,
            gid,
            self.table.change_times.get(node.nodeid, st.st_ctime_ns),
            st.st_blocks if isinstance(node, Directory) else self._blocks(node, st),
        )

    def _blocks(self, node: File, st: os.stat_result) -> int:
        """The blocks of a file; of a metacopy those of its data, as in the kernel: programs look for holes by them."""
        if node.data is None:
            return st.st_blocks
        try:
            if node.opened is not None and not node.opened.is_idle:
                return os.fstat(node.opened.fd).st_blocks
            return self.data_location(node).stat().st_blocks
        except OSError:
            return st.st_blocks

    @operation
    def readlink(self, node: Node) -> bytes:
        location = self.location(node)
        if location.follow:  # the descriptor of an orphan is the symlink itself
            return os.readlink(b"", dir_fd=int(location.name.rpartition(b"/")[2]))
        return location.read(lambda: os.readlink(location.name, dir_fd=location.dirfd))

    @operation
    def open_upper(self, directory: Directory) -> int | None:
        """A descriptor of the directory in the upper, the caller's to close, for fsync(2); None if it has none."""
        return None if directory.upper is None else directory.upper.open_for_reading()

    def statfs(self) -> os.statvfs_result:
        """The state of the file system that new data go to: the upper's, else the topmost lower's."""
        disk = os.statvfs(self.layers[0].root.fd())
        return disk if self.quota is None else self.quota.limited(disk)

    def layer_of(self, node: Node) -> Layer:
        """The layer that holds the node's inode."""
        if isinstance(node, Directory):
            return node.top.layer
        return self.layers[0] if node.has_upper or node.lower_dir is None else node.lower_dir.layer

    def override_name(self, node: Node) -> bytes | None:
        """The attribute that holds the node's owner and mode; None if they are the inode's own."""
        if isinstance(node, Directory) or overrides.applies(node.kind):
            return self.layer_of(node).override
        return None

    def override(self, node: Node, name: bytes) -> overrides.Override | None:
        """The owner and mode in the attribute `name`; None if it has none."""
        if isinstance(node, File) and node.inode >= 0:
            return overrides.read(node.inode, name)
        return overrides.read(self.location(node).path, name)

    # Before a change

    @property
    def copyup(self) -> CopyUp:
        """Raises OSError (EROFS) without an upper."""
        if self._copyup is None:
            fail(errno.EROFS)
        return self._copyup

    @property
    def work(self) -> Work:
        return self.copyup.work

    @property
    def whiteouts(self) -> Whiteouts:
        """Raises OSError (EROFS) without an upper."""
        if self._whiteouts is None:
            fail(errno.EROFS)
        return self._whiteouts

    @property
    def writable(self) -> bool:
        return self._copyup is not None

    @property
    def has_index(self) -> bool:
        return self._copyup is not None and self._copyup.index

    def writable_directory(self, directory: Directory, name: bytes = b"") -> LayerDir:
        """The directory's `LayerDir` in the upper, after a copy-up if it had none. `name`: as in `CopyUp.directory`.

        Raises OSError: EROFS, ENOENT if it was removed. Requires: called before each change in the directory.
        """
        if directory.orphaned:
            fail(errno.ENOENT)
        directory.mark_changed()
        return self.copyup.directory(directory, name)

    def copy_up(self, node: Node) -> None:
        """Copy the node's metadata up, and its data unless metacopies are made, or it has no name."""
        if isinstance(node, File):
            if not node.has_upper:
                self.copyup.file(node, metadata_only=True)
        elif node.upper is None:
            self.writable_directory(node)

    def keep_data_in_reach(self, node: File, directory: Directory, name: bytes) -> None:
        """Before a file gets another name than `name` in `directory`: set the redirect of a metacopy.

        It is absolute, so that it holds under every name. Where it has no room, the data are copied.
        """
        data = node.data
        if data is None or data.marker is None:
            return
        redirect = node.redirect
        if redirect is not None and redirect.startswith(b"/"):
            return
        target = directory.path_in_lowers(redirect or name)
        location = self.writable_location(node)
        try:
            self.markers.set_file_redirect(location.path, target, follow=location.follow)
        except OSError as error:
            if error.errno not in TOO_LONG:
                raise
            self.copyup.file(node)
        else:
            node.mark_redirected(target)
            reach("redirect.set")

    def keep_original(self, directory: Directory, name: bytes) -> None:
        """Before a file takes a name: keep the original of what the lowers have there, if a view does so.

        Does not raise OSError: then there is none.
        """
        if self.copyup is None or self.copyup.originals < 0 or self.copyup.quota is not None:
            return
        with suppress(OSError):
            found = self.merge.find_in_lowers(directory, name) if directory.lowers else None
            if found is None or not stat.S_ISREG(found.stat.st_mode):
                return
            source = os.open(found.name, INODE, dir_fd=found.layer_dir.fd())
            try:
                since = began.read(self.layers[0].root.proc_path(), self.markers.prefix)
                path = directory.path_in_lowers(name)
                originals.keep_replaced(self.copyup.originals, path, source, found.stat, since)
            finally:
                os.close(source)

    def needs_whiteout(self, directory: Directory, name: bytes) -> bool:
        """Whether a lower has something under this name, so that removing it takes a whiteout."""
        return self.merge.find_in_lowers(directory, name) is not None
