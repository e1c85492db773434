"""In-memory inode tree: finds nodes in the layers, and says where their content lies.

The modules beside this one (creation, removal, renaming, links, changing, xattrs, files) change the tree through it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from overlaykit import _native
from overlaykit.overlay import overrides
from overlaykit.overlay.attributes import Attributes
from overlaykit.overlay.layer import UNKNOWN_UUID
from overlaykit.overlay.location import Location
from overlaykit.overlay.markers import is_whiteout_device, origin_link_count
from overlaykit.overlay.nodes import INODE_LIMIT, Directory, File, Numbering, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from overlaykit.overlay.copyup import CopyUp
    from overlaykit.overlay.layer import Layer, LayerDir
    from overlaykit.overlay.markers import Markers, Origin
    from overlaykit.overlay.merge import Entry, Found, Merge
    from overlaykit.overlay.nodes import Node
    from overlaykit.overlay.owners import Owners
    from overlaykit.overlay.whiteouts import Whiteouts
    from overlaykit.overlay.work import Work


T = TypeVar("T")

_FILES: Final = frozenset(
    (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
)
_FORGOTTEN: Final = (errno.ENOENT, errno.ESTALE)
"""What a FUSE file system may say of an inode without a name."""
_NOTHING_TOLD: Final = (0, frozenset[int]())


def fail(number: int, name: bytes = b"") -> NoReturn:
    raise OSError(number, os.strerror(number), os.fsdecode(name) or None)


def _in_lower(node: File, layer_dir: LayerDir) -> Location:
    return Location(layer_dir.fd(), node.lower_name, follow=False, lower=layer_dir.layer)


class Tree:
    """Attributes: `table` owns the nodes, `merge` reads the layers; `copyup`, `work` and `whiteouts` change the
    upper."""

    def __init__(
        self,
        layers: Sequence[Layer],
        table: Table,
        merge: Merge,
        markers: Markers,
        owners: Owners,
        copyup: CopyUp | None,
        whiteouts: Whiteouts | None,
    ) -> None:
        self.layers = layers
        self.table = table
        self.merge = merge
        self.markers = markers
        self.owners = owners
        self._copyup = copyup
        self._whiteouts = whiteouts
        self.modes = None if copyup is None else copyup.modes
        self._numbering = Numbering()
        self._devices: dict[bytes, int] = {}
        upper = layers[0].root if layers[0].writable else None
        lowers = tuple(layer.root for layer in layers if not layer.writable)
        for layer_dir in (*lowers, *((upper,) if upper is not None else ())):
            self._learn_device(layer_dir)
        lowers = merge.down_to_opaque(lowers)
        self.root = Directory(None, b"", upper, lowers)
        table.add_root(self.root)

    # Finding

    def lookup(self, directory: Directory, name: bytes) -> Node | None:
        """The node that `name` means in `directory`, taken up where it was not known; None if there is none."""
        node = directory.children.get(name)
        if node is not None or directory.orphaned:
            return node
        found = self.merge.find(directory, name)
        return None if found is None else self.get_or_create(directory, name, found)

    def lookup_with_attributes(
        self, directory: Directory, name: bytes
    ) -> tuple[Node, Attributes] | None:
        """As `lookup`, with the attributes, from what the search has seen."""
        node = directory.children.get(name)
        if node is None:
            found = None if directory.orphaned else self.merge.find(directory, name)
            return (
                None
                if found is None
                else self.get_or_create_with_attributes(directory, name, found)
            )
        return node, self.attributes(node)

    def get_or_create_with_attributes(
        self, directory: Directory, name: bytes, found: Found
    ) -> tuple[Node, Attributes]:
        """As `get_or_create`, with the node's attributes."""
        node = self.get_or_create(directory, name, found)
        # Another name of a file that was copied up shows the copy's attributes, not what lies under this name.
        is_shown = isinstance(node, Directory) or node.has_upper == found.layer_dir.layer.writable
        return node, self.attributes(node, found.stat if is_shown else None)

    def require(self, directory: Directory, name: bytes) -> Node:
        """As `lookup`; raises OSError (ENOENT) if there is none."""
        node = self.lookup(directory, name)
        if node is None:
            fail(errno.ENOENT, name)
        return node

    def get_or_create(self, directory: Directory, name: bytes, found: Found) -> Node:
        """Make what was found a node, or find the node it is."""
        if found.is_directory:
            return self._take_up_directory(directory, name, found)
        key = self._numbering.key(found.stat.st_dev, found.stat.st_ino)
        kind = stat.S_IFMT(found.stat.st_mode)
        node = self.table.by_key.get(key)
        if node is None or node.kind != kind:
            node = File(kind)
            if found.layer_dir.layer.writable:
                preferred = self._describe_upper(node, key, directory, found)
            else:
                preferred = self._describe_lower(node, key, found)
            known = self.table.by_key.get(node.key)
            if known is not None and known.kind == kind:  # another name of an indexed file
                if known.link_count is None:
                    known.link_count = node.link_count
                node = known
            else:
                self.table.add(node, preferred)
                self.table.register(node, node.key, node.lower_key)
        self.table.link(node, directory, name)
        return node

    def numbers(self, directory: Directory, entries: Iterable[Entry]) -> Iterator[int]:
        """The number of each entry of a listing, without a look at it: of its node, or that which it would get.

        0 where only a look tells: for directories that are not known, and where the layer's own listing does not say.
        """
        known = directory.children
        by_key, by_nodeid = self.table.by_key, self.table.by_nodeid
        told: dict[LayerDir, tuple[int, frozenset[int]]] = {}
        last: LayerDir | None = None
        base, kinds = _NOTHING_TOLD
        for name, kind, layer_dir, inode in entries:
            node: Node | None = known.get(name)
            number = 0
            if node is None:
                if layer_dir is not last:
                    if layer_dir not in told:
                        told[layer_dir] = self._is_d_ino_trusted(layer_dir)
                    last, (base, kinds) = layer_dir, told[layer_dir]
                if kind in kinds and inode < INODE_LIMIT:
                    number = base | inode
                    node = by_key.get(number)
            if node is not None:
                yield node.nodeid if node.kind == kind else 0
            else:
                yield 0 if number in by_nodeid else number

    def _is_d_ino_trusted(self, layer_dir: LayerDir) -> tuple[int, frozenset[int]]:
        """`Numbering.base` in a layer's directory, and the kinds of files of which its listing tells the inodes that
        they are found by. Never directories: that of a merged one is the inode of another layer."""
        try:
            device = layer_dir.stat().st_dev
            base = self._numbering.base(device)
            if base < 0 or not layer_dir.layer.lists_inodes(device, layer_dir):
                return _NOTHING_TOLD
            if layer_dir.layer.writable:
                pure = not self.markers.is_impure(layer_dir.proc_path())
                return (base, _FILES) if pure else _NOTHING_TOLD
            if self._copyup is None:
                return base, _FILES
            if self._copyup.uuid(layer_dir, device) is None:
                return _NOTHING_TOLD
        except OSError:  # a look at each name will tell
            return _NOTHING_TOLD
        # Of others, two hard links are two files once one of them is copied up.
        return base, frozenset(filter(self._copyup.is_indexed, _FILES))

    def _take_up_directory(self, directory: Directory, name: bytes, found: Found) -> Directory:
        node = Directory(directory, name, found.upper, found.lowers, found.redirect)
        st = found.lowers[0].stat() if found.upper and found.lowers else found.stat
        self.table.add(node, self._numbering.key(st.st_dev, st.st_ino))
        directory.children[name] = node
        return node

    def _describe_upper(self, node: File, key: int, directory: Directory, found: Found) -> int:
        """Fill in a file found in the upper; returns the number it should have."""
        node.has_upper = True
        node.key = key
        origin = self._read_marker(found.layer_dir, found.name, self.markers.origin)
        if origin is None:
            return key
        node.has_origin = True
        if found.stat.st_nlink > 1 and self._index_entry(origin, found.stat) is not None:
            node.index_name = origin.index_name()
            node.link_count = self._read_marker(
                found.layer_dir,
                found.name,
                lambda path: self.markers.link_count(
                    path,
                    upper=found.stat.st_nlink,
                    lower=lambda: self._lower_link_count(directory, found, origin),
                ),
            )
        inode = origin.inode_number()
        device = self._device(origin.uuid, directory)
        return key if inode is None or device is None else self._numbering.key(device, inode)

    def _describe_lower(self, node: File, key: int, found: Found) -> int:
        """Fill in a file found in a lower, or the one in the index that it was copied up to."""
        node.lower_dir = found.layer_dir
        node.lower_name = found.name
        node.lower_key = key
        if found.stat.st_nlink == 1 or self._copyup is None or not self._copyup.index:
            return key
        origin = self._copyup.origin(found.layer_dir, found.name, found.stat.st_dev)
        entry = None if origin is None else self._index_entry(origin, None)
        if origin is not None and entry is not None:
            node.has_upper = node.has_origin = True
            node.index_name = origin.index_name()
            node.key = self._numbering.key(entry.st_dev, entry.st_ino)
            node.link_count = self._read_marker(
                self._copyup.work.index,
                node.index_name,
                lambda path: self.markers.link_count(
                    path, upper=entry.st_nlink, lower=lambda: found.stat.st_nlink
                ),
            )
        return key

    def _read_marker(
        self, layer_dir: LayerDir, name: bytes, read: Callable[[bytes], T | None]
    ) -> T | None:
        """A mark of a file in the upper or the index; None where its mode keeps us out for good."""
        modes = self.modes

        def attempt() -> T | None:
            if modes is not None:
                modes.widen(layer_dir.fd(), name)
            return read(layer_dir.proc_path(name))

        try:
            return attempt() if modes is None else modes.past(attempt)
        except PermissionError:  # it is another owner's
            return None

    def _lower_link_count(self, directory: Directory, found: Found, origin: Origin) -> int | None:
        """How many names the lower inode has from which an indexed file came; None if it is not found."""
        links = self.links_of_origin(directory, found.name, origin.index_name())
        if links is not None:
            return links
        copyup = self.copyup
        for layer in self.layers:
            if layer.writable or copyup.uuid(layer.root, layer.root.stat().st_dev) != origin.uuid:
                continue
            root = layer.root.open_for_reading()
            try:
                links = origin_link_count(root, origin)
            finally:
                os.close(root)
            if links is not None:
                return links
        return None

    def links_of_origin(
        self, directory: Directory, name: bytes, index_name: bytes | None
    ) -> int | None:
        """How many names the origin has of the file with this entry in the index, if the lowers show it as `name`."""
        lower = self.merge.find_in_lowers(directory, name)
        if lower is None:
            return None
        origin = self.copyup.origin(lower.layer_dir, lower.name, lower.stat.st_dev)
        is_its = origin is not None and origin.index_name() == index_name
        return lower.stat.st_nlink if is_its else None

    def _index_entry(self, origin: Origin, same: os.stat_result | None) -> os.stat_result | None:
        """The index's entry for an origin; with `same` only if it is that inode."""
        if self._copyup is None or not self._copyup.index:
            return None
        try:
            entry = os.stat(
                origin.index_name(), dir_fd=self._copyup.work.index.fd(), follow_symlinks=False
            )
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
                return None
            raise
        if is_whiteout_device(entry):
            return None
        return entry if same is None or os.path.samestat(entry, same) else None

    def _device(self, uuid: bytes, directory: Directory) -> int | None:
        """The device of the file system with this uuid, if a lower of the directory's lies there."""
        if uuid not in self._devices:
            for layer_dir in directory.lowers:
                self._learn_device(layer_dir)
        return self._devices.get(uuid)

    def _learn_device(self, layer_dir: LayerDir) -> None:
        device = layer_dir.stat().st_dev
        self._numbering.base(device)  # in the order of the stack, so alike at each mount
        self._devices.setdefault(layer_dir.layer.uuid(device, layer_dir), device)
        self._devices.setdefault(UNKNOWN_UUID, device)

    # Where content lies

    def location(self, node: Node) -> Location:
        """Raises OSError (ESTALE) if the inode is out of reach."""
        if isinstance(node, Directory):
            return Location(_native.AT_FDCWD, node.top.proc_path(), follow=True)
        if node.has_upper:
            if node.index_name is not None:
                return Location(self.copyup.work.index.fd(), node.index_name, follow=False)
            if node.links:
                directory, name = node.links[0]
                assert directory.upper is not None
                return Location(directory.upper.fd(), name, follow=False)
            if node.orphan >= 0:
                return Location(_native.AT_FDCWD, b"/proc/self/fd/%d" % node.orphan, follow=True)
        elif node.lower_dir is not None:
            return _in_lower(node, node.lower_dir)
        fail(errno.ESTALE)

    def data_location(self, node: File) -> Location:
        """As `location`, for a file's data."""
        if node.metacopy and node.lower_dir is not None:
            return _in_lower(node, node.lower_dir)
        return self.writable_location(node)

    def writable_location(self, node: Node) -> Location:
        """As `location`, for reading and writing the inode itself: its mode is widened if modes are."""
        location = self.location(node)
        if self.modes is not None and isinstance(node, File) and node.has_upper:
            self.modes.widen(location.dirfd, location.name, follow=location.follow)
        return location

    def show_mode(self, location: Location) -> None:
        """Before the mode of an inode is changed: it is widened no more."""
        if self.modes is not None and self.modes.active:
            self.modes.put_back(location.stat())

    def stat(self, node: Node) -> os.stat_result:
        """Raises OSError (ESTALE), but for what lost its last known name."""
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

    def attributes(self, node: Node, st: os.stat_result | None = None) -> Attributes:
        """Raises OSError (ESTALE). `st` is the inode's, if it was just seen."""
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
        return Attributes(
            node.nodeid,
            node.generation,
            st,
            mode,
            links,
            self.owners.users.shown(uid, in_upper=layer.writable, idmapped=layer.idmapped),
            self.owners.groups.shown(gid, in_upper=layer.writable, idmapped=layer.idmapped),
            self.table.change_times.get(node.nodeid, st.st_ctime_ns),
        )

    def layer_of(self, node: Node) -> Layer:
        """The layer that the node's inode is seen in."""
        if isinstance(node, Directory):
            return node.top.layer
        return self.layers[0] if node.has_upper or node.lower_dir is None else node.lower_dir.layer

    def override_name(self, node: Node) -> bytes | None:
        """The attribute that holds the node's owner and mode; None where they are the inode's own."""
        if isinstance(node, Directory) or overrides.applies(node.kind):
            return self.layer_of(node).override
        return None

    def override(self, node: Node, name: bytes) -> overrides.Override | None:
        """What that attribute says."""
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

    def writable_directory(self, directory: Directory) -> LayerDir:
        """The directory's place in the upper, copied up if need be, before something changes in it.

        Raises OSError: EROFS, ENOENT if it was removed.
        """
        if directory.orphaned:
            fail(errno.ENOENT)
        if directory.listing is not None:
            directory.listing.outdated = True
        return self.copyup.directory(directory)

    def copy_up(self, node: Node) -> None:
        """See to it that the node's metadata are in the upper, and its data if it has a name."""
        if isinstance(node, File):
            if not node.has_upper:
                self.copyup.file(node, metadata_only=True)
        elif node.upper is None:
            self.writable_directory(node)

    def needs_whiteout(self, directory: Directory, name: bytes) -> bool:
        """Whether a lower has something under this name, so that removing it takes a whiteout."""
        return self.merge.find_in_lowers(directory, name) is not None

    # After a change

    def adopt_file(self, directory: Directory, name: bytes, st: os.stat_result) -> File:
        """The node of a file that was just made in the upper."""
        node = File(stat.S_IFMT(st.st_mode))
        node.has_upper = True
        node.key = self._numbering.key(st.st_dev, st.st_ino)
        self.table.add(node, node.key)
        self.table.register(node, node.key)
        self.table.link(node, directory, name)
        return node

    def adopt_directory(
        self, directory: Directory, name: bytes, layer_dir: LayerDir, st: os.stat_result
    ) -> Directory:
        """The node of a directory that was just made in the upper; nothing of the lowers shows in it."""
        node = Directory(directory, name, layer_dir, ())
        self.table.add(node, self._numbering.key(st.st_dev, st.st_ino))
        directory.children[name] = node
        return node
