"""Copy-up: from a lower to the work directory, then renamed into the upper, whole or not at all.

A directory is copied in one call, a file in steps (`filecopy`). A copy appears in the upper once its data are on the
disk (unless the mount is volatile), so a crash leaves the old file or the new one.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from typing import TYPE_CHECKING

from overlaykit import _native
from overlaykit.overlay import acl, overrides
from overlaykit.overlay.faults import reach
from overlaykit.overlay.filecopy import DataCopy, FileCopy, Times
from overlaykit.overlay.layer import UNKNOWN_UUID
from overlaykit.overlay.links import LinkCounts
from overlaykit.overlay.markers import (
    ACLS,
    ESCAPED_PREFIXES,
    OVERLAY_PREFIXES,
    TRUSTED_PREFIX,
    find_origin,
)
from overlaykit.overlay.operation import operation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlaykit.overlay.filecopy import Copy
    from overlaykit.overlay.layer import Layer, LayerDir
    from overlaykit.overlay.markers import Markers, Origin
    from overlaykit.overlay.nodes import Directory, File, Table
    from overlaykit.overlay.owners import Owners
    from overlaykit.overlay.work import Work


class CopyUp:
    """Copies files and directories of lowers into the upper. One for each mount that has an upper."""

    def __init__(
        self,
        table: Table,
        markers: Markers,
        work: Work,
        owners: Owners,
        lowers: Sequence[Layer],
        *,
        volatile: bool,
        index: bool,
    ) -> None:
        self._devices: defaultdict[bytes, set[int]] = defaultdict(set)
        for layer in lowers:
            device = layer.root.stat().st_dev
            self._devices[layer.uuid(device, layer.root)].add(device)
        self.table = table
        self.markers = markers
        self.work = work
        self.modes = work.modes
        self.owners = owners
        self.volatile = volatile
        self.index = index
        self.link_counts = LinkCounts(work, markers)

    def directory(self, node: Directory) -> LayerDir:
        """The directory's `LayerDir` in the upper, after a copy-up of it and its parents if it had none.

        Requires: called right before each change in the directory.
        """
        node.mark_upper_written()
        if node.upper is not None:
            return node.upper
        missing: list[Directory] = []
        current: Directory | None = node
        while current is not None and current.upper is None:
            missing.append(current)
            current = current.parent
        for directory in reversed(missing):
            self._one_directory(directory)
        assert node.upper is not None
        return node.upper

    def file(self, node: File, *, keep_data: bool = True, metadata_only: bool = False) -> None:
        """Copy a file up in one call, if a change takes that."""
        copy = self.begin(node, keep_data=keep_data, metadata_only=metadata_only)
        if copy is None:
            return
        try:
            copy.transfer()
            copy.finish()
        finally:
            copy.close()

    @operation
    def begin(
        self, node: File, *, keep_data: bool = True, metadata_only: bool = False
    ) -> Copy | None:
        """Start the copy-up that must come before a change of a file; None if it needs none.

        The caller runs `transfer` and `finish`, and always `close`. `metadata_only`: data that only open handles can
        read stay where they are.
        """
        if not node.needs_copy(metadata_only=metadata_only):
            return None
        if node.metacopy:
            return DataCopy(self, node, keep_data=keep_data)
        return self._begin(node, keep_data=keep_data, metacopy=metadata_only and not node.links)

    def _begin(self, node: File, *, keep_data: bool, metacopy: bool) -> FileCopy:
        if node.links:
            self.directory(node.links[0][0])
        return FileCopy(self, node, keep_data=keep_data, metacopy=metacopy)

    def rehearse(self, node: File) -> None:
        """Copy a file up without its data and its name, and drop the copy.

        Raises OSError: as a copy-up, but for errors of its data.
        """
        if node.metacopy:
            return  # it is such a copy already
        copy = self._begin(node, keep_data=False, metacopy=True)
        try:
            copy.transfer()
        finally:
            copy.close()

    def link_up(self, node: File, directory: Directory, name: bytes) -> None:
        """Give an indexed file an entry in the upper for a name that only a lower has.

        Requires: its count is stored relative to its lower's, and so stays right while its upper's changes; or is not
        known.
        """
        assert node.index_name is not None
        parent = self.directory(directory)
        index = self.work.index.fd()
        reach("linkup.prepared")
        self.mark_impure(parent)
        times = Times(parent)
        os.link(
            node.index_name,
            name,
            src_dir_fd=index,
            dst_dir_fd=parent.fd(),
            follow_symlinks=False,
        )
        reach("linkup.linked")
        self.link_counts.store_to_upper(node)
        reach("linkup.counted")
        times.restore()

    def is_indexed(self, kind: int) -> bool:
        """Whether hard links of this kind of file stay one file.

        Under the prefix `user.` only regular files can (xattr(7)).
        """
        return self.index and (kind == stat.S_IFREG or self.markers.prefix == TRUSTED_PREFIX)

    def _one_directory(self, node: Directory) -> None:
        parent = node.parent
        assert parent is not None
        assert parent.upper is not None
        lower = node.lowers[0]
        name = self.work.new_name()
        source = lower.open_for_reading()
        try:
            os.mkdir(name, 0o700, dir_fd=self.work.layer_dir.fd())
            reach("copyup.directory.made")
            target = os.open(
                name,
                os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                dir_fd=self.work.layer_dir.fd(),
            )
            try:
                st = os.fstat(source)
                origin = self.origin(lower.parent, lower.name, st.st_dev)
                if origin is not None:  # before the mode, which may deny it
                    self.markers.set_origin(b"/proc/self/fd/%d" % target, origin)
                self.copy(source, target, st, lower.layer, data=False)
            finally:
                os.close(target)
            reach("copyup.directory.copied")
            self.mark_impure(parent.upper)
            times = Times(parent.upper)
            self.work.publish(name, parent.upper, node.name)
            reach("copyup.directory.published")
        except BaseException:
            self.work.remove(name)
            raise
        finally:
            os.close(source)
        node.mark_copied_up(parent.upper.child(node.name))
        times.restore()

    def uuid(self, layer_dir: LayerDir, device: int) -> bytes | None:
        """The uuid by which an origin names the file system that `layer_dir` lies on.

        None if file handles do not last, or if the uuid is not unique, as in the kernel (fs/overlayfs/super.c,
        bad_uuid): several lowers without one, or clones of one image. Only the lowers' roots are compared.
        """
        if not layer_dir.layer.lasting_handles(device, layer_dir):
            return None
        uuid = layer_dir.layer.uuid(device, layer_dir)
        devices = self._devices.get(uuid)
        if devices is None:
            return None if uuid == UNKNOWN_UUID else uuid
        return uuid if devices == {device} else None

    def origin(self, layer_dir: LayerDir | None, name: bytes, device: int) -> Origin | None:
        """The lasting identity of a lower's inode; None if it has none."""
        uuid = None if layer_dir is None else self.uuid(layer_dir, device)
        if layer_dir is None or uuid is None:
            return None
        fd = layer_dir.fd()
        return layer_dir.layer.read(lambda: find_origin(fd, name, uuid), fd)

    def copy(
        self, source: int, target: int, st: os.stat_result, layer: Layer, *, data: bool
    ) -> None:
        """Copy data and metadata of an inode of `layer`, whose attributes are `st`."""
        uid = self.owners.users.copied(st.st_uid, idmapped=layer.idmapped)
        gid = self.owners.groups.copied(st.st_gid, idmapped=layer.idmapped)
        kept = self.work.layer_dir.layer.override  # how the upper holds owners and modes
        if not overrides.applies(st.st_mode) or not (kept or layer.override):

            def copy_all() -> None:
                _native.copy_up(
                    source,
                    target,
                    data=data,
                    uid=uid,
                    gid=gid,
                    skip_xattrs=OVERLAY_PREFIXES,
                    keep_xattrs=ESCAPED_PREFIXES,
                )
                if layer.idmapped:
                    _store_acls(target, st, self.owners)

            try:
                copy_all()
            except PermissionError:  # a mode denies access to attributes
                layer.read(copy_all, source)
            if self.owners.are_squashed:
                _lend_no_rights(target, st, uid, gid)
            return
        shown = overrides.Override(uid, gid, stat.S_IMODE(st.st_mode))
        if layer.override is not None:
            found = overrides.read(b"/proc/self/fd/%d" % source, layer.override)
            if found is not None:
                uid = self.owners.users.copied(found.uid, idmapped=layer.idmapped)
                gid = self.owners.groups.copied(found.gid, idmapped=layer.idmapped)
                shown = found._replace(uid=uid, gid=gid)
        _native.copy_up(
            source,
            target,
            data=data,
            uid=os.geteuid() if kept else shown.uid,
            gid=os.getegid() if kept else shown.gid,
            skip_xattrs=(*OVERLAY_PREFIXES, *overrides.NAMES),
            keep_xattrs=ESCAPED_PREFIXES,
        )
        path = b"/proc/self/fd/%d" % target
        if kept is None:
            os.chmod(path, shown.mode)
        else:
            _lend_no_rights(target, st, os.geteuid(), os.getegid())
            overrides.write(path, kept, shown)

    def mark_impure(self, layer_dir: LayerDir) -> None:
        """Mark an upper directory as impure. Requires: called before it gets an entry with an origin."""
        if not layer_dir.impure:
            self.markers.set_impure(layer_dir.proc_path())
            layer_dir.impure = True


def _lend_no_rights(target: int, st: os.stat_result, uid: int, gid: int) -> None:
    """Clear the set-ID bits of a copy whose owner differs from its lower's.

    Outside of the view too, such a program would run with the rights of one user what another has written.
    """
    lent = (stat.S_ISUID if uid != st.st_uid else 0) | (stat.S_ISGID if gid != st.st_gid else 0)
    if stat.S_ISREG(st.st_mode) and st.st_mode & lent:
        os.chmod(b"/proc/self/fd/%d" % target, stat.S_IMODE(st.st_mode) & ~lent)


def _store_acls(target: int, st: os.stat_result, owners: Owners) -> None:
    """Map the ids in a copy's access control lists to those to store: its lower's are as programs see them."""
    if stat.S_ISLNK(st.st_mode):
        return
    path = b"/proc/self/fd/%d" % target  # may be O_PATH
    for name in ACLS:
        value = _native.xattr_or_none(path, name)
        if value is not None:
            os.setxattr(path, name, acl.copied(value, owners))
