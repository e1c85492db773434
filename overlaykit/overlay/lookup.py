"""Lookup: from a name in a directory to a node, and from a metacopy to its data.

A metacopy (the kernel's metacopy=on) is a file of which a layer holds the metadata, and a layer below it the data:
under the same name, or where the file's redirect says (Documentation/filesystems/overlayfs.rst, "Metadata only copy
up"). Its inode has the file's size, and what it holds of data does not count: a copy-up of the data that a crash
interrupts leaves the lower's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time

from overlaykit import attributes
from overlaykit.lean import NamedTuple
from overlaykit.overlay.failure import fail
from overlaykit.overlay.layer import UNKNOWN_UUID, LayerDir
from overlaykit.overlay.liveness import Version, is_directory, is_same_inode
from overlaykit.overlay.markers import NO_FILE_MARKERS, UNMARKED
from overlaykit.overlay.merge import Found, stat_in
from overlaykit.overlay.nodes import IN_INDEX, Data, Directory, File
from overlaykit.overlay.numbering import Numbering
from overlaykit.overlay.operation import operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final, Literal, TypeAlias, TypeVar

    from overlaykit.overlay.links import Links
    from overlaykit.overlay.markers import Markers, Metacopy, Origin
    from overlaykit.overlay.merge import Merge
    from overlaykit.overlay.nodes import Node
    from overlaykit.overlay.tree import Tree

    T = TypeVar("T")
    Verity: TypeAlias = Literal["off", "on", "require"]


_SECTOR: Final = 512
_FS_IOC_MEASURE_VERITY: Final = 0xC0046686
"""include/uapi/linux/fsverity.h: _IOWR('f', 134, struct fsverity_digest)."""
_DIGEST: Final = struct.Struct("=HH")
"""struct fsverity_digest: algorithm and size, then the digest."""
_MOST_DIGEST: Final = 64
_CHANGING_NS: Final = 50 * 10**6
"""A file that has changed again so soon after an open was refused for that is opened as it is."""


class Result(NamedTuple):
    """What a name means: the node, and its inode's attributes if the lookup has read them. For `Tree.attributes`."""

    node: Node
    stat: os.stat_result | None


class Lookup:
    """Finds the nodes that names mean, and makes those that are not in the table yet."""

    def __init__(self, tree: Tree, links: Links) -> None:
        self.modes = tree.modes
        self.numbering = Numbering()
        self._tree = tree
        self._links = links
        self._devices: dict[bytes, int] = {}
        self._stale = 0, b""
        self._stale_ns = 0
        self._pinned: dict[bytes, set[tuple[bytes, ...]]] = {}
        self.learn_devices()

    def learn_devices(self) -> None:
        """Learn the devices of the layers. Requires: called when other layers have come."""
        layers = self._tree.layers
        for layer in (
            *(one for one in layers if not one.writable),
            *(one for one in layers if one.writable),
        ):
            self._learn_device(layer.root)

    @operation
    def find(self, directory: Directory, name: bytes) -> Result | None:
        """What `name` means in `directory`; None if there is nothing."""
        node = directory.children.get(name)
        plane = self._tree.table.plane
        if node is None and plane is not None:
            node = plane.fetch(directory, name)
        if node is not None and self.is_current(directory, name, node):
            return Result(node, None)
        if directory.orphaned:
            return None
        found = self._tree.merge.find(directory, name)
        if node is not None:
            if found is not None and isinstance(node, Directory) and _is_same(node, found):
                return Result(node, None)
            self._tree.table.retire(node, directory, name)
        return None if found is None else self.get_or_create(directory, name, found)

    def is_current(self, directory: Directory, name: bytes, node: Node) -> bool:
        """Whether a node is what the lowers that others may change have under its name.

        It is, too, if nothing there matters: it has an upper, or it is being changed, or something is mounted on it.
        """
        if not directory.is_live or directory.orphaned or self._is_pinned(directory, name):
            return True
        if isinstance(node, Directory):
            return node.upper is not None or _has_same_lowers(directory, name, node)
        if node.lower_dir is None or not node.may_be_outdated:
            return True
        index = node.lower_dir.layer.index
        for lower in directory.lowers:
            if lower.layer.index > index:
                break
            if lower.layer.live:
                st = stat_in(lower, name)
                if st is not None or lower.layer.index == index:
                    return st is not None and Version.of(st) == node.told
            elif lower.layer.index == index:
                return True
        return False

    def confirm(self, node: File) -> bool:
        """Check a file that a program opens: whether the kernel may keep its pages.

        Raises: OSError: ESTALE if it has changed: the kernel then looks its name up again.
        """
        told = node.told
        if told is None or node.has_upper or node.lower_dir is None or not node.may_be_outdated:
            return True
        directory, name = node.links[0] if node.links else (None, b"")
        now = time.time_ns()
        if directory is not None and not self.is_current(directory, name, node):
            st = stat_in(node.lower_dir, node.lower_name)
            changes_on = self._stale == (node.inode_number, name) and now < self._stale_ns
            self._stale, self._stale_ns = (node.inode_number, name), now + _CHANGING_NS
            if st is None or not changes_on or not is_same_inode(told, st):
                fail(errno.ESTALE, name)
        elif told.is_settled(node.fresh_ns) and _has_flusher(node.lower_dir, told):
            return True
        node.mark_fresh(now)
        return False

    def pin(self, paths: Sequence[str]) -> None:
        """Names that keep their nodes whatever the lowers have: on them something will be mounted.

        The kernel unmounts what lies on a name that has another node. `paths`: absolute, in the merged tree.
        """
        for path in paths:
            *above, name = os.fsencode(path).strip(b"/").split(b"/")
            self._pinned.setdefault(name, set()).add(tuple(above))

    def leads_to_pinned(self, directory: Directory) -> bool:
        """Whether a pinned name is in a directory or below it."""
        if not self._pinned:
            return False
        path = directory.names()
        return any(one[: len(path)] == path for ones in self._pinned.values() for one in ones)

    def _is_pinned(self, directory: Directory, name: bytes) -> bool:
        return name in self._pinned and directory.names() in self._pinned[name]

    def require(self, directory: Directory, name: bytes) -> Node:
        """The node that `name` means. Raises OSError (ENOENT) if there is none."""
        result = self.find(directory, name)
        if result is None:
            fail(errno.ENOENT, name)
        return result.node

    def get_or_create(self, directory: Directory, name: bytes, found: Found) -> Result:
        """The node of what the merge has found."""
        if found.is_directory:
            st = _numbered(found)
            made = Directory(directory, name, found.upper, found.lowers, found.redirect)
            self._tree.table.add_directory(made, self.numbering.key(st.st_dev, st.st_ino))
            return Result(made, found.stat)
        node, found = self._get_or_create_file(directory, name, found)
        self._tree.table.link(node, directory, name)
        # Another name of a file that was copied up shows the copy's attributes, not what lies under this name.
        is_shown = node.has_upper == found.layer_dir.layer.writable
        return Result(node, found.stat if is_shown else None)

    def indexed(self, found: Found) -> tuple[Found, int | None]:
        """As `Links.in_indexes`, of any file."""
        if found.stat.st_nlink > 1 and not found.layer_dir.layer.writable:
            return self._links.in_indexes(found)
        return found, None

    def _get_or_create_file(
        self, directory: Directory, name: bytes, found: Found
    ) -> tuple[File, Found]:
        """A file's node, and what it stands for: the copy of a hard link in the index of a frozen layer."""
        table = self._tree.table
        found, links = self.indexed(found)
        key = self.numbering.key(found.stat.st_dev, found.stat.st_ino)
        kind = stat.S_IFMT(found.stat.st_mode)
        if table.plane is not None and key not in table.by_key:
            table.plane.fetch_node(key)  # it has another name: a mount of it in the same layer
        existing = table.by_key.get(key)
        if existing is not None and existing.kind == kind:
            if not existing.may_be_outdated or existing.told == Version.of(found.stat):
                return existing, found
            table.unhash(existing)  # its other names are found to be outdated in turn
        if found.layer_dir.layer.writable:
            node, preferred = self._upper_file(kind, key, directory, found)
            if table.plane is not None and preferred != key:
                table.plane.fetch_node(preferred)  # an earlier daemon has found another name of it
        elif found.layer_dir.layer.frozen:
            node, preferred = self._frozen_file(kind, key, directory, name, found, links)
        else:
            node, preferred = self._lower_file(kind, key, directory, found), key
        existing = table.by_key.get(node.key)
        if existing is not None and existing.kind == kind:  # another name of an indexed file
            existing.learn_link_count(node.link_count)
            return existing, found
        # A frozen layer lies above those that others change.
        if not node.has_upper and directory.is_live and not found.layer_dir.layer.frozen:
            node.mark_told(Version.of(found.stat), time.time_ns(), preferred)
        table.add(node, preferred)
        table.register(node)
        return node, found

    def adopt_file(self, directory: Directory, name: bytes, st: os.stat_result) -> File:
        """The node of a file that was just made in the upper."""
        key = self.numbering.key(st.st_dev, st.st_ino)
        node = File(stat.S_IFMT(st.st_mode), key=key, has_upper=True)
        table = self._tree.table
        table.add(node, key)
        table.register(node)
        table.link(node, directory, name)
        return node

    @operation
    def adopt_made(self, directory: Directory, name: bytes) -> Node:
        """The node of what the plane has made in the upper: nothing of the lowers shows in it, whatever they hold now.

        Raises: OSError.
        """
        upper = directory.upper
        if upper is None:
            fail(errno.ENOENT, name)
        st = os.stat(name, dir_fd=upper.fd(), follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            return self.adopt_directory(directory, name, upper.child(name), st)
        return self.adopt_file(directory, name, st)

    @operation
    def adopt_below(self, directory: Directory, name: bytes, layer_dir: LayerDir) -> Node | None:
        """The node of what a lower has in `layer_dir`, where nothing else shows under this name; None if it has gone.

        Raises: OSError.
        """
        st = None if directory.orphaned else attributes.stat_or_none(layer_dir.fd(), name)
        if st is None:
            return None
        if not stat.S_ISDIR(st.st_mode):
            return self.get_or_create(directory, name, Found(layer_dir, name, st)).node
        child = layer_dir.child(name)
        found: Found | None = Found(layer_dir, name, st, lowers=(child,))
        if self._tree.merge.directory_markers(child) != UNMARKED:
            found = self._tree.merge.find(directory, name)  # a redirect leads to other lowers
        return None if found is None else self.get_or_create(directory, name, found).node

    @operation
    def adopt_left(
        self, directory: Directory | None, name: bytes, inode: int, *, made: bool
    ) -> Node | None:
        """The node that a daemon which was killed has found under a name; `inode`: kept open by it, or -1.

        Takes `inode` over. `directory`: None if it had no name; `name` says then where it lies in a lower or in the
        index, or nothing. `made`: by the plane. Returns: None if there is no such node any more. Raises: OSError.
        """
        if inode >= 0:
            if directory is None or not _is_named(directory, name, inode):
                if self._tree.markers.metacopy(b"/proc/self/fd/%d" % inode, follow=True):
                    fail(errno.ESTALE)  # where its data lie is not known any more
                return self.adopt_nameless(inode)
            os.close(inode)
        if directory is None:
            if name.startswith(IN_INDEX):
                return self._adopt_indexed(name.removeprefix(IN_INDEX))
            return self._adopt_lower(name)
        if made:
            return self.adopt_made(directory, name)
        found = self.find(directory, name)
        return None if found is None else found.node

    def _adopt_lower(self, place: bytes) -> Node | None:
        """The node of a file in a lower that has no name any more. `place`: the layer's number, and the path in it."""
        number, _, path = place.partition(b"/")
        if not path:
            return None
        *above, name = path.split(b"/")
        layer_dir = next(one for one in self._tree.layers if one.number == int(number)).root
        for component in above:
            layer_dir = layer_dir.child(component)
        st = os.stat(name, dir_fd=layer_dir.fd(), follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            return None
        key = self.numbering.key(st.st_dev, st.st_ino)
        node = File(stat.S_IFMT(st.st_mode), lower_key=key, lower_dir=layer_dir, lower_name=name)
        node.remember(st)
        self._tree.table.add(node, key)
        self._tree.table.register(node)  # a name of it that is not known may be found
        return node

    def _adopt_indexed(self, index_name: bytes) -> Node:
        """The node of a file in the index: it has names, of which none is known."""
        index, markers = self._tree.work.index, self._tree.markers
        st = os.stat(index_name, dir_fd=index.fd(), follow_symlinks=False)
        held = self._read_marker(index, index_name, markers.of_file)
        if held is None or held.metacopy:
            fail(errno.ESTALE)  # where its data lie is not known any more
        key = self.numbering.key(st.st_dev, st.st_ino)
        node = File(
            stat.S_IFMT(st.st_mode),
            key=key,
            has_upper=True,
            has_origin=True,
            index_name=index_name,
            link_count=self._read_marker(
                index,
                index_name,
                lambda path: markers.link_count(path, upper=st.st_nlink, lower=lambda: None),
            ),
        )
        self._tree.table.add(node, key)
        self._tree.table.register(node)
        return node

    def adopt_nameless(self, inode: int) -> Node:
        """The node of what the upper has without a name, open as `inode`, which it takes over."""
        st = os.fstat(inode)
        node: Node
        if stat.S_ISDIR(st.st_mode):
            node = Directory(None, b"", None, ())
            node.orphan(LayerDir(self._tree.layers[0], None, b"", inode))
        else:
            key = self.numbering.key(st.st_dev, st.st_ino) if st.st_nlink else 0
            node = File(stat.S_IFMT(st.st_mode), key=key, has_upper=True)
            node.keep_inode(inode)
            self._tree.table.register(node)  # a name of it that is not known may be found
        node.remember(st)
        self._tree.table.add(node, self.numbering.key(st.st_dev, st.st_ino))
        self._tree.table.keep_inode(node, inode)
        return node

    def adopt_directory(
        self, directory: Directory, name: bytes, layer_dir: LayerDir, st: os.stat_result
    ) -> Directory:
        """The node of a directory that was just made in the upper; nothing of the lowers shows in it."""
        node = Directory(directory, name, layer_dir, ())
        self._tree.table.add_directory(node, self.numbering.key(st.st_dev, st.st_ino))
        return node

    def _upper_file(
        self, kind: int, key: int, directory: Directory, found: Found
    ) -> tuple[File, int]:
        """A file found in the upper, and the nodeid that it should have."""
        markers = self._tree.markers
        held = self._read_marker(found.layer_dir, found.name, markers.of_file) or NO_FILE_MARKERS
        data = redirect = None
        if held.metacopy and kind == stat.S_IFREG:
            data, redirect = self._metacopy(directory, found)
        origin = (
            self._read_marker(found.layer_dir, found.name, markers.origin) if held.origin else None
        )
        if origin is None:
            return File(kind, key=key, has_upper=True, data=data, redirect=redirect), key
        index_name = link_count = None
        if found.stat.st_nlink > 1 and self._links.index_entry(origin, same=found.stat) is not None:
            index_name = origin.index_name()
            link_count = self._read_marker(
                found.layer_dir,
                found.name,
                lambda path: markers.link_count(
                    path,
                    upper=found.stat.st_nlink,
                    lower=lambda: self._links.lower_link_count(directory, found.name, origin),
                ),
            )
        node = File(
            kind,
            key=key,
            has_upper=True,
            has_origin=True,
            index_name=index_name,
            link_count=link_count,
            data=data,
            redirect=redirect,
        )
        first = origin
        if index_name is not None and self._tree.layers[1].frozen:
            first = self._read_marker(found.layer_dir, found.name, markers.first_origin) or origin
        return node, self._number(first, directory, key)

    def _metacopy(self, directory: Directory, found: Found) -> tuple[Data | None, bytes | None]:
        """Where the data of a metacopy in the upper lie, and its redirect."""
        path = found.layer_dir.proc_path(found.name)
        marker = self._tree.markers.metacopy(path)
        if marker is None:
            return None, None
        redirect = self._tree.markers.file_redirect(path)
        metacopies = self._tree.metacopies
        return metacopies.below(directory, found.name, found.layer_dir, marker, redirect), redirect

    def _frozen_file(
        self,
        kind: int,
        key: int,
        directory: Directory,
        name: bytes,
        found: Found,
        links: int | None,
    ) -> tuple[File, int]:
        """A file found in a lower that was an upper, and the nodeid that it had there. `links`: if they are known."""
        markers = self._tree.markers
        held = self._read_marker(found.layer_dir, found.name, markers.of_file) or NO_FILE_MARKERS
        origin = None
        if held.origin:
            origin = self._read_marker(found.layer_dir, found.name, markers.first_origin)
        if links is None and origin is not None and found.stat.st_nlink > 1:
            links = self._links.count_in_frozen(directory, name, found)
        node = self._lower_file(kind, key, directory, found, links)
        return node, key if origin is None else self._number(origin, directory, key)

    def _number(self, origin: Origin, directory: Directory, key: int) -> int:
        """The nodeid of a file with an origin; `key` if that does not tell it."""
        inode = origin.inode_number()
        device = self._device(origin.uuid, directory)
        return key if inode is None or device is None else self.numbering.key(device, inode)

    def _lower_file(
        self, kind: int, key: int, directory: Directory, found: Found, links: int | None = None
    ) -> File:
        """A file found in a lower, or the one in the index that it was copied up to. `links`: how many names it has."""
        data = None
        if may_be_one(found.stat):
            data = self._tree.metacopies.in_layer(
                directory, found.name, found.layer_dir, found.name
            )
        origin = entry = None
        if found.stat.st_nlink > 1 and self._tree.has_index:
            origin = self._tree.copyup.origins.find(found.layer_dir, found.name, found.stat.st_dev)
            entry = None if origin is None else self._links.index_entry(origin)
        if origin is None or entry is None:
            return File(
                kind,
                lower_key=key,
                lower_dir=found.layer_dir,
                lower_name=found.name,
                link_count=links,
                data=data,
            )
        upper_links = entry.st_nlink
        link_count = self._read_marker(
            self._tree.work.index,
            origin.index_name(),
            lambda path: self._tree.markers.link_count(
                path, upper=upper_links, lower=lambda: links or found.stat.st_nlink
            ),
        )
        index_name = origin.index_name()
        data, redirect = self._indexed_metacopy(index_name, found, data)
        return File(
            kind,
            key=self.numbering.key(entry.st_dev, entry.st_ino),
            lower_key=key,
            lower_dir=found.layer_dir,
            lower_name=found.name,
            has_upper=True,
            has_origin=True,
            index_name=index_name,
            link_count=link_count,
            data=data,
            redirect=redirect,
        )

    def _indexed_metacopy(
        self, index_name: bytes, found: Found, data: Data | None
    ) -> tuple[Data | None, bytes | None]:
        """As `_metacopy`, of an entry of the index. `found`: its lower, whose own data lie in `data` if it is one."""
        markers = self._tree.markers
        index = self._tree.work.index
        held = self._read_marker(index, index_name, markers.of_file)
        if held is None or not held.metacopy:
            return None, None
        path = index.proc_path(index_name)
        marker = markers.metacopy(path)
        if marker is None:
            return None, None
        place = data or Data(found.layer_dir, found.name, marker)
        if not marker.readable:
            place = Data(None, b"", marker)
        return place._replace(marker=marker), markers.file_redirect(path)

    def _read_marker(
        self, layer_dir: LayerDir, name: bytes, read: Callable[[bytes], T | None]
    ) -> T | None:
        """A marker of a file in the upper or the index; None if its mode denies access for good."""
        modes = self.modes

        def attempt() -> T | None:
            if modes is not None:
                modes.widen(layer_dir.fd(), name)
            return read(layer_dir.proc_path(name))

        try:
            return attempt() if modes is None else modes.past(attempt)
        except PermissionError:  # the file is another owner's
            return None

    def _device(self, uuid: bytes, directory: Directory) -> int | None:
        """The device of the file system with this uuid, if a lower of the directory lies there."""
        if uuid not in self._devices:
            for layer_dir in directory.lowers:
                self._learn_device(layer_dir)
        return self._devices.get(uuid)

    def _learn_device(self, layer_dir: LayerDir) -> None:
        device = layer_dir.stat().st_dev
        self.numbering.base(device)  # in the order of the stack, so alike at each mount
        self._devices.setdefault(layer_dir.layer.uuid(device, layer_dir), device)
        self._devices.setdefault(UNKNOWN_UUID, device)


def _numbered(found: Found) -> os.stat_result:
    """The inode whose number a directory shows: that which it had before it was copied up."""
    lowers = found.lowers
    if not lowers or (found.upper is None and not lowers[0].layer.frozen):
        return found.stat
    first = next((one for one in lowers if not one.layer.frozen), lowers[-1])
    return first.stat()


def _has_flusher(layer_dir: LayerDir, told: Version) -> bool:
    return layer_dir.layer.has_flusher(told.device, layer_dir)


def _has_same_lowers(directory: Directory, name: bytes, node: Directory) -> bool:
    """Whether the live lowers above have the same directories under a name as before, by what each alone has."""
    shown = {one.layer.index: one for one in node.lowers}
    for lower in directory.lowers:
        if lower.layer.live:
            st, one = stat_in(lower, name), shown.get(lower.layer.index)
            if st is None if one is None else is_directory(st) and _is_still(one, lower, st):
                continue
            return False
    return True


def _is_still(one: LayerDir, above: LayerDir, st: os.stat_result | None) -> bool:
    if one.parent is not above:  # a redirect leads there
        return True
    return st is not None and os.path.samestat(one.stat(), st)


def _is_same(node: Directory, found: Found) -> bool:
    """Whether the merge has found a directory's own lowers, and no upper."""
    return (
        found.is_directory
        and found.upper is None
        and len(found.lowers) == len(node.lowers)
        and all(
            one.layer is other.layer and os.path.samestat(one.stat(), other.stat())
            for one, other in zip(found.lowers, node.lowers, strict=True)
        )
    )


def _is_named(directory: Directory, name: bytes, inode: int) -> bool:
    """Whether a name in the upper leads to the inode."""
    if directory.upper is None:
        return False
    st = attributes.stat_or_none(directory.upper.fd(), name)
    return st is not None and os.path.samestat(st, os.fstat(inode))


def may_be_one(st: os.stat_result) -> bool:
    """Whether an inode of a lower looks like a metacopy: it takes less of its disk than its size."""
    return stat.S_ISREG(st.st_mode) and st.st_blocks * _SECTOR < st.st_size


class Metacopies:
    """Finds the data of metacopies. `verity`: whether digests are checked, as by the kernel's option."""

    def __init__(self, merge: Merge, markers: Markers, verity: Verity = "off") -> None:
        self._merge = merge
        self._markers = markers
        self._verity = verity

    def in_layer(
        self, directory: Directory, name: bytes, holder: LayerDir, held: bytes
    ) -> Data | None:
        """Where the data of `name` in `directory` lie, if the topmost entry, `held` in `holder`, is a metacopy.

        Does not raise OSError for data out of reach: only reading them fails.
        """
        path = holder.proc_path(held)
        marker = self._markers.metacopy(path)
        if marker is None:
            return None
        return self.below(directory, name, holder, marker, self._markers.file_redirect(path))

    def below(
        self,
        directory: Directory,
        name: bytes,
        holder: LayerDir,
        marker: Metacopy,
        redirect: bytes | None,
    ) -> Data:
        """Where the data of a metacopy lie, which `holder` has as `name` in `directory`."""
        found = None
        if marker.readable:
            try:
                found = self._merge.find_data(directory, name, holder.layer, redirect)
            except OSError as error:
                if error.errno != errno.EIO:  # a redirect that is no path
                    raise
        return (
            Data(None, b"", marker) if found is None else Data(found.layer_dir, found.name, marker)
        )

    def learn(self, node: File, inode: int) -> None:
        """Find out whether a file of a lower, open as `inode` (O_PATH suffices), is a metacopy.

        A lookup asks only of one that may be (`may_be_one`).
        """
        marker = self._markers.metacopy(b"/proc/self/fd/%d" % inode, follow=True)
        if marker is None:
            return
        assert node.lower_dir is not None
        if not node.links:  # its place in the tree is not known any more
            node.mark_data_found(Data(None, b"", marker))
            return
        directory, name = node.links[0]
        found = self.in_layer(directory, name, node.lower_dir, node.lower_name)
        node.mark_data_found(found or Data(None, b"", marker))

    def verify(self, data: Data, fd: int) -> None:
        """Check the data of a metacopy, open as `fd`, against the digest in its marker.

        Raises: OSError (EIO) if they differ, or if there is nothing to compare and a digest is required.
        """
        marker = data.marker
        if self._verity == "off" or marker is None:
            return
        if not marker.algorithm:
            if self._verity == "require":
                fail(errno.EIO, data.name)
            return
        measured = bytearray(_DIGEST.pack(0, _MOST_DIGEST) + bytes(_MOST_DIGEST))
        try:
            fcntl.ioctl(fd, _FS_IOC_MEASURE_VERITY, measured)
        except OSError:
            fail(errno.EIO, data.name)
        algorithm, size = _DIGEST.unpack_from(measured)
        digest = bytes(measured[_DIGEST.size : _DIGEST.size + size])
        if (algorithm, digest) != (marker.algorithm, marker.digest):
            fail(errno.EIO, data.name)
