"""Copy-up: from a lower to the work directory, then renamed into the upper, whole or not at all.

A directory is copied in one call, a file in three steps, so that a large one delays no other request. The constructor
of `FileCopy` and `finish` use the tree and are quick; `transfer` moves the bytes, uses only its own two descriptors and
may run in another thread. If the file's names change in between, `finish` uses the current ones.

A copy appears in the upper once its data are on the disk (unless the mount is volatile), so a crash leaves the old file
or the new one. Which of them is not sure until something is synced, where `Disk.sync` need not wait for a journal.

With `metacopy` a change of metadata copies no data (see `lookup`). They are copied into the upper's inode before
the first write, and its marker is removed once they are on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final, TypeAlias

from overlaykit import _native, attributes, inodes
from overlaykit.beneath import INODE, NEW_FILE
from overlaykit.overlay import began, features, originals
from overlaykit.overlay.callers import Programs
from overlaykit.overlay.failure import fail
from overlaykit.overlay.faults import reach
from overlaykit.overlay.files import read_quietly
from overlaykit.overlay.inodecopy import InodeCopier
from overlaykit.overlay.layer import UNKNOWN_UUID
from overlaykit.overlay.links import LinkCounts
from overlaykit.overlay.liveness import Version
from overlaykit.overlay.location import Location
from overlaykit.overlay.marker_names import TRUSTED_PREFIX
from overlaykit.overlay.markers import NO_DIGEST, Origin, find_origin
from overlaykit.overlay.nodes import Data
from overlaykit.overlay.operation import operation
from overlaykit.overlay.smallcopy import SmallCopies, SmallCopy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlaykit.overlay.disk import Disk
    from overlaykit.overlay.layer import Layer, LayerDir
    from overlaykit.overlay.lookup import Metacopies
    from overlaykit.overlay.markers import Markers
    from overlaykit.overlay.nodes import Directory, File, Table
    from overlaykit.overlay.owners import Owners
    from overlaykit.overlay.quota import Quota
    from overlaykit.overlay.work import Work

_CAPABILITY: Final = b"security.capability"
_LOWER_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Origins:
    """Finds what identifies the inodes of `lowers` for good."""

    def __init__(self, lowers: Sequence[Layer]) -> None:
        self._devices: defaultdict[bytes, set[int]] = defaultdict(set)
        for layer in lowers:
            device = layer.root.stat().st_dev
            self._devices[layer.uuid(device, layer.root)].add(device)
        self._uuids: dict[tuple[Layer, int], bytes | None] = {}

    def uuid(self, layer_dir: LayerDir, device: int) -> bytes | None:
        """As `_uuid`, which is the same for all that a layer has on a device."""
        key = layer_dir.layer, device
        if key not in self._uuids:
            self._uuids[key] = self._uuid(layer_dir, device)
        return self._uuids[key]

    def _uuid(self, layer_dir: LayerDir, device: int) -> bytes | None:
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

    def find(self, layer_dir: LayerDir | None, name: bytes, device: int) -> Origin | None:
        """The lasting identity of a lower's inode; None if it has none."""
        uuid = None if layer_dir is None else self.uuid(layer_dir, device)
        if layer_dir is None or uuid is None:
            return None
        fd = layer_dir.fd()
        try:
            return find_origin(fd, name, uuid)
        except PermissionError:
            return layer_dir.layer.read(lambda: find_origin(fd, name, uuid), fd)


class CopyUp:
    """Copies files and directories of lowers into the upper. One for each mount that has an upper."""

    def __init__(
        self,
        table: Table,
        markers: Markers,
        work: Work,
        owners: Owners,
        lowers: Sequence[Layer],
        metacopies: Metacopies,
        *,
        disk: Disk | None,
        index: bool,
        metacopy: bool = False,
        quota: Quota | None = None,
        originals: int = -1,
    ) -> None:
        """`disk`: syncs what is copied; None: nothing is synced. `metacopy`: a change of metadata copies no data.

        `originals`: the directory for those (see `originals`); -1: none are kept. Not owned.
        """
        self.table = table
        self.markers = markers
        self.work = work
        self.modes = work.modes
        self.origins = Origins(lowers)
        self.inodes = InodeCopier(owners, work.layer_dir.layer.override)
        self._disk = disk
        self.index = index
        self.metacopies = metacopies
        self.metacopy = metacopy
        self.quota = quota
        self.originals = originals
        self.link_counts = LinkCounts(work, markers)
        self.programs = Programs()
        self.small = SmallCopies(self)

    def begin_again(self, lowers: Sequence[Layer], originals: int) -> None:
        """Go on in another upper, above `lowers`. Requires: the work directory is that one's."""
        self.origins = Origins(lowers)
        self.originals = originals

    def origin_of(
        self, lower: LayerDir, name: bytes, device: int, *, linked: bool
    ) -> Origin | None:
        """The origin of a copy of a lower's file: the first one, if that was copied up itself into a frozen layer.

        `linked`: it has other names, whose index goes by its own inode.
        """
        found = self.origins.find(lower, name, device)
        if found is None or linked or not lower.layer.frozen:
            return found
        first = self.markers.origin(lower.proc_path(name))
        # One of the kernel's says of no time; `noted` has to tell it from a new one.
        return found if first is None else first._replace(copied=first.copied or 1)

    def directory(self, node: Directory, name: bytes = b"") -> LayerDir:
        """The directory's `LayerDir` in the upper, after a copy-up of it and its parents if it had none.

        `name`: which is all that changes in it, unless it is empty. Requires: called right before each change in the
        directory.
        """
        node.mark_upper_written()
        if node.upper is not None:
            if self.table.plane is not None:
                self.table.plane.unresolve(node, name)
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
        small = self.small.begin(node, keep_data=keep_data, metadata_only=metadata_only)
        if small is not None:
            try:
                _carry_out(small)
            except OSError:
                pass  # the other way reports it, or gets round it
            else:
                return
        copy = self.begin(node, keep_data=keep_data, metadata_only=metadata_only)
        if copy is not None:
            _carry_out(copy)

    @operation
    def begin(
        self, node: File, *, keep_data: bool = True, metadata_only: bool = False
    ) -> Copy | None:
        """Start the copy-up that must come before a change of a file; None if it needs none.

        The caller runs `transfer` and `finish`, and always `close`. `metadata_only`: the data may stay where they are,
        if they are those of a metacopy, or only open handles can read them.
        """
        if not node.needs_copy(metadata_only=metadata_only):
            return None
        if node.has_upper:
            return DataCopy(self, node, keep_data=keep_data)
        # Without a name the copy has no marker: a later daemon would take it for whole.
        leaves_data = self.metacopy if node.links else self.table.kept_plane is None
        return self._begin(node, keep_data=keep_data, metacopy=metadata_only and leaves_data)

    def _begin(self, node: File, *, keep_data: bool, metacopy: bool) -> FileCopy:
        if node.links:
            self.directory(*node.links[0])
        return FileCopy(self, node, keep_data=keep_data, metacopy=metacopy)

    def rehearse(self, node: File) -> None:
        """Copy a file up without its data and its name, and drop the copy.

        Raises OSError: as a copy-up, but for errors of its data.
        """
        if node.has_upper:
            return  # it is such a copy already
        copy = self._begin(node, keep_data=False, metacopy=True)
        try:
            copy.transfer(is_rehearsal=True)
        finally:
            copy.close()

    def link_up(self, node: File, directory: Directory, name: bytes) -> None:
        """Give an indexed file an entry in the upper for a name that only a lower has.

        Requires: its count is stored relative to its lower's, and so stays right while its upper's changes; or is not
        known.
        """
        assert node.index_name is not None
        parent = self.directory(directory, name)
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

    def upper_location(self, node: File) -> Location:
        """How the inode of a file in the upper is reached. Raises OSError (ESTALE) if it is out of reach."""
        if node.index_name is not None:
            return Location(self.work.index.fd(), node.index_name, follow=False)
        if node.links:
            directory, name = node.links[0]
            assert directory.upper is not None
            return Location(directory.upper.fd(), name, follow=False)
        if node.orphan >= 0:
            return Location(_native.AT_FDCWD, b"/proc/self/fd/%d" % node.orphan, follow=True)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def is_indexed(self, kind: int) -> bool:
        """Whether hard links of this kind of file stay one file.

        Under the prefix `user.` only regular files can (xattr(7)).
        """
        return self.index and (kind == stat.S_IFREG or self.markers.prefix == TRUSTED_PREFIX)

    def _one_directory(self, node: Directory) -> None:
        parent = node.parent
        assert parent is not None
        assert parent.upper is not None
        if self.table.plane is not None:
            self.table.plane.unresolve(parent, node.name)
            self.table.plane.revoke(node)
        lower = node.lowers[0]
        name = self.work.new_name()
        source = lower.open_for_reading()
        try:
            if self.quota is not None:
                self.quota.reserve(0)
            os.mkdir(name, 0o700, dir_fd=self.work.layer_dir.fd())
            reach("copyup.directory.made")
            target = os.open(
                name,
                os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                dir_fd=self.work.layer_dir.fd(),
            )
            try:
                st = os.fstat(source)
                origin = self.origins.find(lower.parent, lower.name, st.st_dev)
                if origin is not None:  # before the mode, which may deny it
                    self.markers.set_origin(b"/proc/self/fd/%d" % target, self.noted(origin, st))
                self.inodes.copy(source, target, st, lower.layer, data=False)
                made = os.fstat(target)
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
        if self.quota is not None:
            self.quota.add(made)
        times.restore()

    def noted(self, origin: Origin, st: os.stat_result) -> Origin:
        """The origin of a copy that is made now, of an inode with the attributes `st`."""
        # Of the first copy, what it says of the lower's file.
        changed_ns = origin.changed_ns if origin.copied else _changed_ns(st)
        return Origin(
            origin.type, origin.uuid, origin.handle, changed_ns, _now(), self.programs.name()
        )

    @property
    def syncs(self) -> bool:
        """Whether `sync` may have to wait for a disk."""
        return self._disk is not None

    def begin_sync(self, fd: int) -> None:
        """Have the disk write copied data from now on, for a `sync` that waits less. Raises OSError."""
        if self._disk is not None:
            self._disk.begin_sync(fd)

    def sync(self, fd: int) -> None:
        """Have copied data on the disk before a name or a marker says so. Raises OSError."""
        if self._disk is not None:
            self._disk.sync(fd)

    def mark_impure(self, layer_dir: LayerDir) -> None:
        """Mark an upper directory as impure. Requires: called before it gets an entry with an origin."""
        if not layer_dir.impure:
            self.markers.set_impure(layer_dir.proc_path())
            layer_dir.impure = True


def _now() -> int:
    """The time in seconds since the epoch, as 32 bits hold it."""
    return int(time.time()) & 0xFFFFFFFF


def _changed_ns(st: os.stat_result) -> int | None:
    """The change time by which a later change of a lower's file is known; None: not for sure."""
    return st.st_ctime_ns if began.is_settled(st.st_ctime_ns) else None


def _open_source(copyup: CopyUp, node: File, *, keep_data: bool) -> tuple[int, os.stat_result]:
    """A descriptor of the lower's file, and its attributes. Learns whether it is a metacopy.

    Of an open file it is the inode that was opened: a lower may change, and pages of two files must not be mixed.
    Raises OSError: ESTALE for a file that has changed since the kernel was told of it: then the kernel looks it up
    again.
    """
    lower = node.lower_dir
    assert lower is not None
    if node.opened is not None and node.data is None:
        fd = os.dup(node.opened.fd)
        st = os.fstat(fd)
    else:
        below = lower.fd()
        st = lower.layer.read(
            lambda: os.stat(node.lower_name, dir_fd=below, follow_symlinks=False), below
        )
        # A file without data need not be readable: a lock file may not be.
        flags = _LOWER_FILE if keep_data and st.st_size and node.data is None else INODE
        fd = lower.layer.open(
            lambda: os.open(node.lower_name, flags, dir_fd=below), below, node.lower_name
        )
        try:
            if node.told is not None and Version.of(st) != node.told:
                fail(errno.ESTALE, node.lower_name)
            if node.data is None and st.st_size and node.kind == stat.S_IFREG:
                copyup.metacopies.learn(node, fd)
        except BaseException:
            os.close(fd)
            raise
    return fd, st


def _open_data(copyup: CopyUp, node: File) -> int:
    """A descriptor of the data of a metacopy. Raises OSError (EIO) if they are out of reach, or not those expected."""
    assert node.data is not None
    if node.opened is not None:
        return os.dup(node.opened.fd)
    layer_dir, name = node.data.layer_dir, node.data.name
    if layer_dir is None:
        fail(errno.EIO, node.lower_name)
    below = layer_dir.fd()
    fd = layer_dir.layer.open(lambda: os.open(name, _LOWER_FILE, dir_fd=below), below, name)
    try:
        copyup.metacopies.verify(node.data, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


class FileCopy:
    """The copy-up of a file. `size`: how many bytes `transfer` moves.

    `metacopy`: the copy of a regular file gets its length but not its data, which stay in the lower.
    """

    def __init__(self, copyup: CopyUp, node: File, *, keep_data: bool, metacopy: bool) -> None:
        lower = node.lower_dir
        assert not node.has_upper
        if lower is None:
            fail(errno.ESTALE)
        self._copyup = copyup
        self._node = node
        self._source = -1
        self._data = -1  # of a metacopy in a lower
        self._target = -1
        self._name = b""  # in the work directory, until it is finished
        self._reserved = 0
        self._is_marked = False
        self._keeps_original = False
        regular = node.kind == stat.S_IFREG
        try:
            keep_data = keep_data and regular and not metacopy
            self._source, self._stat = _open_source(copyup, node, keep_data=keep_data)
            # An empty file with a name is whole.
            self._metacopy = metacopy and regular and bool(self._stat.st_size or not node.links)
            self.size = self._stat.st_size if keep_data else 0
            self._known_size = node.known_size if keep_data and node.told is not None else -1
            self._keeps_original = (
                copyup.originals >= 0
                and copyup.quota is None  # which does not count them
                and regular
                and not self._metacopy
            )
            if self.size and node.data is not None:
                self._data = _open_data(copyup, node)
            if copyup.quota is not None and self.size:
                self._reserved = copyup.quota.reserve_copy(
                    self._source if self._data < 0 else self._data, self.size
                )
            self._origin = (
                copyup.origin_of(lower, node.lower_name, self._stat.st_dev, linked=self._is_linked)
                if node.opened is None or self._is_still_there(lower)
                else None
            )
            if self._origin is not None:
                self._origin = copyup.noted(self._origin, self._stat)
            self._name = copyup.work.new_name()
            self._target = self._make_target()
            reach("copyup.made")
        except BaseException:
            self.close()
            raise

    def transfer(self, *, is_rehearsal: bool = False) -> None:
        """Copy data and metadata, and sync the data. Raises OSError: ENOSPC and the like from the disk.

        `is_rehearsal`: the copy is dropped, so that the upper has none without data.
        """
        copyup = self._copyup
        assert self._node.lower_dir is not None
        layer = self._node.lower_dir.layer
        path = b"/proc/self/fd/%d" % self._target
        if self._origin is not None:  # before the mode, which may forbid it
            copyup.markers.set_origin(path, self._origin)
        if self._indexed:
            copyup.markers.set_link_count(path, 0, to_upper=False, follow=True)
            if layer.frozen:
                first = copyup.markers.first_origin(
                    self._node.lower_dir.proc_path(self._node.lower_name)
                )
                if first is not None:
                    copyup.markers.set_first_origin(path, first)
        if self._metacopy:
            # EFBIG if the disk has no files that long.
            os.ftruncate(self._target, self._stat.st_size)
            if self._node.links:
                copyup.markers.set_metacopy(path, recorded=not is_rehearsal)
                self._is_marked = True
        in_source = self.size > 0 and self._data < 0
        if self._data >= 0:
            inodes.copy(self._data, self._target, metadata=False)
            os.ftruncate(self._target, self._stat.st_size)
        copyup.inodes.copy(self._source, self._target, self._stat, layer, data=in_source)
        if self._known_size >= 0 and os.fstat(self._target).st_size != self._known_size:
            # A live lower's file has grown or shrunk since a program opened it: the kernel goes on with its own size.
            os.ftruncate(self._target, self._known_size)
            times = self._stat.st_atime_ns, self._stat.st_mtime_ns
            attributes.set_times(self._target, b"", *times, _native.AT_EMPTY_PATH)
        if self._keeps_original and self._origin is not None:
            content = self._target if self.size else self._source
            lower = self._node.lower_dir
            place = b"/".join((*lower.components(), self._node.lower_name))
            originals.keep(copyup.originals, self._source, content, self._stat, self._origin, place)
        reach("copyup.copied")
        if self.size:
            copyup.sync(self._target)
        reach("copyup.synced")

    def finish(self) -> None:
        """Rename the copy into place and swap open descriptors."""
        self._copyup.modes.past(self._finish)

    def _finish(self) -> None:
        node = self._node
        copyup = self._copyup
        if node.has_upper:
            return  # lost the race with another copy-up, which may have been written to: drop this copy
        if self._indexed:
            assert self._origin is not None
            index_name = self._origin.index_name()
            copyup.markers.record(features.INDEX)
            copyup.work.publish(self._name, copyup.work.index, index_name)
            reach("copyup.indexed")
            node.mark_indexed(index_name, node.link_count or self._stat.st_nlink)
            self._hand_over()  # lookups find it by the index now, even if there is no room for its name
            for directory, name in node.links[:1]:
                copyup.modes.past(functools.partial(copyup.link_up, node, directory, name))
        elif node.links:
            directory, name = node.links[0]
            parent = copyup.directory(directory, name)
            copyup.mark_impure(parent)
            times = Times(parent)
            copyup.work.publish(self._name, parent, name)
            reach("copyup.published")
            self._hand_over()
            times.restore()
            self._keep_other_names(parent, name)
        else:
            if self._metacopy:
                fd, self._target = self._target, -1
            else:
                fd = os.open(b"/proc/self/fd/%d" % self._target, os.O_PATH | os.O_CLOEXEC)
            node.keep_inode(fd)
            copyup.table.keep_inode(node, fd)
            copyup.table.unhash(node)  # a name that is found later is the lower file's
            copyup.work.remove(self._name)
            self._hand_over()

    def close(self) -> None:
        """Close the descriptors, and remove the copy unless it was finished."""
        if self._copyup.quota is not None and self._reserved:
            self._copyup.quota.end_copy(self._reserved)
            self._reserved = 0
        for fd in (self._source, self._data, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._data = self._target = -1
        if self._name:
            self._copyup.work.remove(self._name)
            self._name = b""

    def _is_still_there(self, lower: LayerDir) -> bool:
        """Whether the name in the lower still leads to the file that is copied."""
        try:
            below = lower.fd()
            st = lower.layer.read(
                lambda: os.stat(self._node.lower_name, dir_fd=below, follow_symlinks=False), below
            )
        except OSError:
            return False
        return os.path.samestat(st, self._stat)

    def _hand_over(self) -> None:
        """Let the node, and its open handles, continue on the copy."""
        node = self._node
        self._name = b""
        if self._copyup.quota is not None:
            self._copyup.quota.end_copy(self._reserved, self._target)
            self._reserved = 0
        node.mark_copied_up(self._data_left_below() if self._metacopy else None)
        if node.kind == stat.S_IFREG:  # the kernel keeps no time of other kinds
            self._copyup.table.change_times.keep(node.nodeid, self._stat.st_ctime_ns)
        if node.opened is not None and not node.metacopy:
            node.opened.swap(self._target)
            self._target = -1

    def _data_left_below(self) -> Data:
        """Where the data of the copy lie, of which it has none."""
        node = self._node
        found = node.data or Data(node.lower_dir, node.lower_name, None)
        # A copy that had no name when it was made has no marker on the disk.
        return found._replace(marker=NO_DIGEST if self._is_marked else None)

    def _keep_other_names(self, parent: LayerDir, name: bytes) -> None:
        """Keep the known names one file, without an index. Names found later become a file of their own."""
        node = self._node
        table = self._copyup.table
        table.forget_lower(node)
        others = list(node.links[1:])
        try:
            while others:
                self._copyup.modes.past(functools.partial(self._link, parent, name, *others[0]))
                del others[0]
        except OSError:
            # The disk had no room for these: they are files of their own already.
            for directory, other in others:
                table.unlink(node, directory, other)
            raise

    def _link(self, parent: LayerDir, name: bytes, directory: Directory, other: bytes) -> None:
        """Give the copy, `name` in `parent`, another name."""
        layer_dir = self._copyup.directory(directory, other)
        self._copyup.mark_impure(layer_dir)
        times = Times(layer_dir)
        os.link(
            name, other, src_dir_fd=parent.fd(), dst_dir_fd=layer_dir.fd(), follow_symlinks=False
        )
        times.restore()

    @property
    def _is_linked(self) -> bool:
        return self._stat.st_nlink > 1 or self._node.link_count is not None

    @property
    def _indexed(self) -> bool:
        return (
            self._copyup.is_indexed(self._node.kind)
            and self._is_linked
            and self._origin is not None
            and bool(self._node.links)
        )

    def _make_target(self) -> int:
        work = self._copyup.work.layer_dir
        kind = self._node.kind
        if kind == stat.S_IFREG:
            fd = os.open(self._name, NEW_FILE, 0o600, dir_fd=work.fd())
            read_quietly(fd)
            return fd
        if kind == stat.S_IFLNK:
            target = os.readlink(b"", dir_fd=self._source)
            os.symlink(target, self._name, dir_fd=work.fd())
        else:
            os.mknod(self._name, kind | 0o600, self._stat.st_rdev, dir_fd=work.fd())
        return os.open(self._name, INODE, dir_fd=work.fd())


class DataCopy:
    """The copy-up of the data of a metacopy. `size`: how many bytes `transfer` moves."""

    def __init__(self, copyup: CopyUp, node: File, *, keep_data: bool) -> None:
        assert node.data is not None
        self._node = node
        self._copyup = copyup
        self._quota = copyup.quota
        self._is_marked = node.data.marker is not None
        self._reserved = 0
        self._source = -1
        self._target = _open_target(copyup, node)
        try:
            self._before = os.fstat(self._target)
            self.size = self._before.st_size if keep_data else 0
            if self.size:
                self._source = _open_data(copyup, node)
            if self._quota is not None and self.size:
                self._reserved = self._quota.reserve_copy(self._source, self.size)
        except BaseException:
            self.close()
            raise

    def transfer(self) -> None:
        """Copy the data, or drop them, and sync them if a name leads to them. Raises OSError: ENOSPC and the like.

        What an earlier copy has left is the beginning of the same data.
        """
        before = self._before
        if not self.size:
            # First, as without the marker a crash would leave as many zeros.
            os.ftruncate(self._target, 0)
            reach("datacopy.emptied")
            return
        path = b"/proc/self/fd/%d" % self._target
        capability = attributes.xattr_or_none(path, _CAPABILITY)
        try:
            inodes.copy(self._source, self._target, metadata=False)
            os.ftruncate(self._target, self.size)
        finally:
            # A write clears both, as if it were a program's.
            if capability is not None:
                os.setxattr(path, _CAPABILITY, capability)
            if os.fstat(self._target).st_mode != before.st_mode:
                os.fchmod(self._target, stat.S_IMODE(before.st_mode))
            attributes.set_times(
                self._target, b"", before.st_atime_ns, before.st_mtime_ns, _native.AT_EMPTY_PATH
            )
        reach("datacopy.copied")
        if self._is_marked:
            self._copyup.sync(self._target)
        reach("datacopy.synced")

    def finish(self) -> None:
        """Remove the marker, and let the file's open handles continue on the copy."""
        node = self._node
        if self._is_marked:
            self._copyup.markers.remove_metacopy(self._target)
            self._copyup.table.change_times.keep(node.nodeid, self._before.st_ctime_ns)
        reach("datacopy.unmarked")
        self._count()
        node.mark_data_copied()
        if node.opened is not None:
            node.opened.swap(self._target)
            self._target = -1

    def close(self) -> None:
        """Close the descriptors."""
        if self._quota is not None and self._reserved:
            self._quota.end_copy(self._reserved)
            self._reserved = 0
        for fd in (self._source, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._target = -1

    def _count(self) -> None:
        """Count what the copy takes. One without a marker was not counted."""
        if self._quota is None:
            return
        self._quota.end_copy(self._reserved, -1 if self._is_marked else self._target)
        self._reserved = 0
        if self._is_marked:
            self._quota.change(self._before, os.fstat(self._target))


def _open_target(copyup: CopyUp, node: File) -> int:
    """A descriptor of the inode of a metacopy in the upper, which reads and writes."""
    if node.data is not None and node.data.marker is None:
        return os.dup(node.orphan)
    location = copyup.upper_location(node)
    copyup.modes.widen(location.dirfd, location.name, follow=location.follow)
    fd = location.open(os.O_RDWR)
    read_quietly(fd)
    return fd


Copy: TypeAlias = FileCopy | DataCopy | SmallCopy


def _carry_out(copy: Copy) -> None:
    try:
        copy.transfer()
        copy.finish()
    finally:
        copy.close()


class Times:
    """An upper directory's times, restored after copy-up makes an entry in it: programs see no change there."""

    def __init__(self, layer_dir: LayerDir) -> None:
        self._layer_dir = layer_dir
        self._stat = os.fstat(layer_dir.fd())

    def restore(self) -> None:
        st = self._stat
        fd = self._layer_dir.fd()
        with contextlib.suppress(OSError):  # the copy-up itself has succeeded
            attributes.set_times(fd, b"", st.st_atime_ns, st.st_mtime_ns, _native.AT_EMPTY_PATH)
