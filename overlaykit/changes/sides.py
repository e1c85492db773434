"""One side of a comparison: a stack of directories that is only read, and what a path means in it.

A view with snapshots has several layers of its own: its upper, and below it those that were frozen. Its changes are
what all of them together show. A file that was copied from a frozen one is a copy of what that was copied from, and a
hard link shows the newest copy that the index of one of them has.
"""

from __future__ import annotations

import errno
import os
import stat

from overlaykit import attributes, privilege
from overlaykit.changes.model import Version
from overlaykit.lean import partial
from overlaykit.overlay import acl, features, overrides
from overlaykit.overlay.lookup import Metacopies, may_be_one
from overlaykit.overlay.marker_names import TRUSTED_PREFIX, USER_PREFIX
from overlaykit.overlay.markers import ACLS, Markers, xattr_names
from overlaykit.overlay.merge import Found, Merge
from overlaykit.overlay.nodes import Directory
from overlaykit.overlay.opened import as_layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

    from overlaykit.changes.frozen import Frozen
    from overlaykit.overlay.descriptors import Descriptors
    from overlaykit.overlay.layer import Layer, LayerDir
    from overlaykit.overlay.markers import Origin
    from overlaykit.overlay.opened import OpenedLayer

_REDIRECTING: Final = frozenset((features.REDIRECT, features.METACOPY))


class Side:
    """What a stack of layers shows, top first. The first is an upper if it is writable."""

    def __init__(self, layers: Sequence[Layer], markers: Markers, recorded: frozenset[str]) -> None:
        """`recorded`: the features that the upper may have."""
        self.markers = markers
        self.merge = Merge(layers, markers)
        self.find = self.merge.find
        self._metacopies = Metacopies(self.merge, markers)
        self._has_metacopies = features.METACOPY in recorded
        self._frozen: Frozen | None = None
        if any(one.frozen for one in layers):
            from overlaykit.changes.frozen import Frozen

            self._frozen = Frozen(layers, markers)
        upper = layers[0].root if layers and layers[0].writable else None
        lowers = self.merge.down_to_opaque([layer.root for layer in layers if not layer.writable])
        self.root = Directory(None, b"", upper, lowers)
        self._above = b""
        st = None if upper is None else upper.stat()
        self._maker = (-1, -1) if st is None or st.st_uid == 0 else (st.st_uid, st.st_gid)
        self.groups = self._supplementary()
        """Those that the ordinary user who made the upper can give files to beside the own one."""

    def close(self) -> None:
        """Close what it has opened itself."""
        if self._frozen is not None:
            self._frozen.close()

    @property
    def is_empty(self) -> bool:
        """Whether it has no layer, and shows nothing."""
        return not self.merge.layers

    def enter(self, path: bytes) -> None:
        """Make a directory of this side the root, from which all paths are. Raises: OSError (ENOENT)."""
        for name in path.split(b"/"):
            found = self.find(self.root, name)
            if found is None or not found.is_directory:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))
            self.root = self.child(self.root, name, found)
        self._above = path + b"/"

    def from_root(self, path: bytes) -> bytes | None:
        """A path of the layers, from the root of this side; None if it leads elsewhere."""
        path = path.lstrip(b"/")
        return path[len(self._above) :] if path.startswith(self._above) else None

    def child(self, directory: Directory, name: bytes, found: Found) -> Directory:
        """The directory that was found under a name."""
        return Directory(directory, name, found.upper, found.lowers, found.redirect)

    def at(self, path: bytes) -> tuple[Directory, bytes, Found] | None:
        """What a path means, without following symlinks: its directory, its name there, and what was found."""
        directory = self.root
        *above, name = path.split(b"/")
        for component in above:
            found = self.find(directory, component)
            if found is None or not found.is_directory:
                return None
            directory = self.child(directory, component, found)
        found = self.find(directory, name)
        return None if found is None else (directory, name, found)

    def source(self, directory: Directory) -> bytes | None:
        """The path of a merged directory in the layers below the view's own, if these do not have it under its own.

        None: they have none, or another directory of the layers leads there.
        """
        if self._frozen is None:
            return self.from_root(directory.path_in_lowers()) if directory.redirect else None
        below = self.below(directory.lowers)
        return self.from_root(b"/".join(below[0].components())) if below else None

    def below(self, lowers: Sequence[LayerDir]) -> Sequence[LayerDir]:
        """Those of some directories that are in layers below the view's own."""
        if self._frozen is None:
            return lowers
        return [one for one in lowers if not one.layer.of_view]

    def _supplementary(self) -> frozenset[int]:
        uid, gid = self._maker
        others = frozenset(os.getgroups()) - {gid} if uid == os.geteuid() else frozenset()
        if others and not privilege.maps_all_ids():
            others -= {privilege.overflow_id("gid")}
        return others

    def group_for(self, version: Version, wanted: int) -> int:
        """The group of a file of the upper, which holds the maker's own alone, where `wanted` is meant."""
        is_own = (version.uid, version.gid) == self._maker and version.layer_dir.layer.of_view
        return wanted if is_own and wanted in self.groups else version.gid

    def has_other_owner(self, old: Version, new: Version) -> bool:
        """Whether a file was given to another owner.

        The upper of an ordinary user cannot hold other users' files: a copy-up makes them the user's.
        """
        uid, gid = self._maker
        return (old.uid != new.uid and new.uid != uid) or (old.gid != new.gid and new.gid != gid)

    def lost_acls(
        self, old: Mapping[bytes, bytes], version: Version, new: Mapping[bytes, bytes]
    ) -> dict[bytes, bytes]:
        """The ACLs, of the attributes `old`, that the copy of a file in an ordinary user's upper lacks.

        It cannot hold entries of other users and groups: a copy-up leaves out a list that has some.
        """
        uid, gid = self._maker
        lost = {
            name: old[name]
            for name in ACLS
            if name in old and name not in new and acl.names_others(old[name], uid, gid)
        }
        return lost if lost and uid != -1 and self._is_copy(version) else {}

    def _is_copy(self, version: Version) -> bool:
        """Whether a file of the upper was copied from a lower."""
        if not version.layer_dir.layer.of_view:
            return False
        try:
            return self.origin(version) is not None
        except OSError:
            return False

    def origin(self, version: Version) -> Origin | None:
        """The inode of the layers that a file of the view's own was copied from, if it says so. Raises: OSError."""
        path = version.path
        origin = version.read(lambda: self.markers.origin(path))
        return origin if self._frozen is None else self._frozen.origin(version, origin)

    def version_of_root(self) -> Version:
        top = self.root.top
        return self._version(top, b"", top.stat())

    def version(self, directory: Directory, name: bytes, found: Found) -> Version:
        """The file that was found as `name` in `directory`. Raises: OSError."""
        if self._frozen is not None and found.stat.st_nlink > 1 and not found.is_directory:
            found = self._frozen.newest(found)
        holder, held, st, *_ = found
        data = links = names = None
        if stat.S_ISREG(st.st_mode):
            if not holder.layer.writable:
                if may_be_one(st):
                    data = self._data(directory, name, found)
                elif _may_hold_attributes(st):
                    names = _names_of(holder, held)
                    if names and self.markers.has_metacopy(names):
                        data = self._data(directory, name, found)
            else:
                if self._has_metacopies:
                    names = _names_of(holder, held)
                    if names and self.markers.has_metacopy(names):
                        data = self._data(directory, name, found)
                if st.st_nlink > 1:
                    links = self._links(directory, name, found)
        if holder.layer.override is not None:
            return self._version(holder, held, st, data, links, names)
        return Version(holder, held, st, st.st_mode, st.st_uid, st.st_gid, data, links, names)

    def _data(
        self, directory: Directory, name: bytes, found: Found
    ) -> tuple[LayerDir | None, bytes] | None:
        data = self._metacopies.in_layer(directory, name, found.layer_dir, found.name)
        return None if data is None else (data.layer_dir, data.name)

    def file_moved_from(self, directory: Directory, found: Found) -> bytes | None:
        """The path in the lowers under which they have the data of an upper's metacopy that was renamed."""
        target = self.markers.file_redirect(found.layer_dir.proc_path(found.name))
        if target is None:
            return None
        return self.from_root(directory.path_in_lowers(target) if target[:1] != b"/" else target)

    def _links(self, directory: Directory, name: bytes, found: Found) -> int | None:
        def lower() -> int | None:
            below = self.merge.find_in_lowers(directory, name)
            return None if below is None else below.stat.st_nlink

        path = found.layer_dir.proc_path(found.name)
        try:
            return found.layer_dir.layer.read(
                lambda: self.markers.link_count(path, upper=found.stat.st_nlink, lower=lower),
                found.layer_dir.fd(),
                found.name,
            )
        except PermissionError:
            return None

    def _version(
        self,
        holder: LayerDir,
        name: bytes,
        st: os.stat_result,
        data: tuple[LayerDir | None, bytes] | None = None,
        links: int | None = None,
        names: list[bytes] | None = None,
    ) -> Version:
        mode, uid, gid = st.st_mode, st.st_uid, st.st_gid
        held_in = holder.layer.override
        if held_in is not None and overrides.applies(mode):
            override = overrides.read(holder.proc_path(name), held_in)
            if override is not None:
                mode, uid, gid = stat.S_IFMT(mode) | override.mode, override.uid, override.gid
        return Version(holder, name, st, mode, uid, gid, data, links, names)


def _may_hold_attributes(st: os.stat_result) -> bool:
    """Whether the one block that a small file takes may be of its attributes, as on ext4, so that it has no data."""
    return 0 < st.st_size <= st.st_blocks * 512 <= st.st_blksize


def _names_of(holder: LayerDir, name: bytes) -> list[bytes]:
    """The names of the attributes of a layer's file, markers too. Raises: OSError."""
    fd = holder.fd()
    try:
        return attributes.xattr_names_at(fd, name)
    except PermissionError:
        return holder.layer.read(lambda: attributes.xattr_names_at(fd, name), fd, name)


def layers_of(
    upper: OpenedLayer | None, lowers: Sequence[OpenedLayer], descriptors: Descriptors
) -> tuple[list[Layer], Markers, frozenset[str]]:
    """The opened directories as layers, with the markers and the features of the upper."""
    layers = as_layers([*([] if upper is None else [upper]), *lowers], upper, descriptors)
    prefix, recorded = _written_by(layers[0].root.proc_path() if layers else b"/proc/self/root")
    # As a view's daemon reads an ordinary user's own files of any mode.
    reader = None
    if privilege.CAP_DAC_OVERRIDE not in privilege.capabilities():
        from overlaykit.reader import Reader

        reader = Reader()
    for layer in layers:
        layer.reader = reader
        layer.override = overrides.find(
            layer.root.proc_path(), allow_user=features.PERMISSIONS in recorded
        )
    return layers, Markers(prefix), recorded


def _written_by(upper: bytes) -> tuple[bytes, frozenset[str]]:
    """The prefix of an upper's markers, and the features that it may have."""
    names = xattr_names(upper)
    for prefix in (TRUSTED_PREFIX, USER_PREFIX):
        if any(name.startswith(prefix) for name in names):
            return prefix, _recorded(upper, prefix)
    prefix = prefix_of_new()
    return prefix, _recorded(upper, prefix)


def prefix_of_new() -> bytes:
    """The prefix of the markers of an upper that this process makes."""
    may_set = privilege.CAP_SYS_ADMIN in privilege.capabilities() and privilege.maps_all_ids()
    return TRUSTED_PREFIX if may_set else USER_PREFIX


def _recorded(upper: bytes, prefix: bytes) -> frozenset[str]:
    recorded = features.read(upper, prefix)
    return _REDIRECTING if recorded is None else recorded


def inode_of(layer_dir: LayerDir) -> tuple[int, int]:
    """The device and number of a directory's inode."""
    st = layer_dir.stat()
    return st.st_dev, st.st_ino


def shown_xattrs(version: Version, markers: Markers) -> dict[bytes, bytes]:
    """The attributes of a file as programs see them, and their values. Empty where a mode denies reading them."""
    found: dict[bytes, bytes] = {}
    if version.attributes == []:  # as most are
        return found
    hidden = version.layer_dir.layer.override
    try:
        for name in version.attribute_names():
            if markers.is_marker(name) or name == hidden:
                continue
            path = version.path
            try:
                value = attributes.xattr_or_none(path, name, not version.name)
            except PermissionError:
                value = version.read(
                    partial(attributes.xattr_or_none, path, name, not version.name)
                )
            if value is not None:
                found[markers.unescape(name)] = value
    except PermissionError:
        return {}
    return found


def names_that_differ(
    a: Directory | None, b: Directory | None, merge: tuple[Merge, Merge]
) -> set[bytes]:
    """The names in the layers that only one of two directories shows. The others are the same on both sides."""
    left = [] if a is None else list(a.layer_dirs)
    right = [] if b is None else list(b.layer_dirs)
    while left and right and _are_same(left[-1], right[-1]):
        left.pop()
        right.pop()
    names: set[bytes] = set()
    for dirs, of in zip((left, right), merge, strict=True):
        for layer_dir in dirs:
            names.update(of.names_in(layer_dir))
    return names


def _are_same(a: LayerDir, b: LayerDir) -> bool:
    if a.layer is b.layer and a.components() == b.components():
        return True
    return inode_of(a) == inode_of(b)
