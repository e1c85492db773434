"""The POSIX operations on nodes. Plain calls, plain `OSError(errno)`.

A `Filesystem` is one mounted stack. Operations take and give nodes (`nodes.File`, `nodes.Directory`); who keeps
a node beyond the call counts a lookup on it (`node.lookups += 1`) and gives it back with `forget`. The caller calls
`between_operations` now and then, when no call is under way, and `close` at the end.

May be cached without limit by the caller: everything, since while it is mounted nobody else changes the layers.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, Self, TypeVar

from overlaykit import _native
from overlaykit.overlay import acl, overrides
from overlaykit.overlay import format as marks_format
from overlaykit.overlay.copyup import Copy, CopyUp
from overlaykit.overlay.creation import Creation, check_name
from overlaykit.overlay.descriptors import Descriptors, shares
from overlaykit.overlay.disk import Unfit, probe
from overlaykit.overlay.files import Files, wants_to_write
from overlaykit.overlay.format import Marks
from overlaykit.overlay.layer import Layer, Reader
from overlaykit.overlay.listing import Listing, Listings
from overlaykit.overlay.merge import Merge
from overlaykit.overlay.nodes import Directory, File, Table
from overlaykit.overlay.overrides import Override
from overlaykit.overlay.owners import AS_THEY_ARE, Owners
from overlaykit.overlay.removal import Removal
from overlaykit.overlay.renaming import Renaming
from overlaykit.overlay.tree import Tree, fail
from overlaykit.overlay.whiteouts import Whiteouts
from overlaykit.overlay.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from overlaykit.overlay.attributes import Attributes, Caller, Changes
    from overlaykit.overlay.disk import Form
    from overlaykit.overlay.merge import Entry
    from overlaykit.overlay.nodes import Node
    from overlaykit.overlay.tree import Location


@dataclass(frozen=True, slots=True)
class OpenedLayer:
    """A directory to be merged: a descriptor of it (O_PATH will do; it is taken over) and its path, to be shown.

    `mounted_in`: the directories, as paths from its root, in which other mounts lie on something, as far as the
    descriptor shows them; None if that is not known. Mounts made later are changes of a layer, as any other.
    `lock`: a descriptor that keeps others from writing to it, taken over and closed last (-1: none).
    `idmapped`: the mount that it lies on has mapped its owners already.
    """

    fd: int
    path: str
    mounted_in: frozenset[bytes] | None = None
    lock: int = -1
    idmapped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to mount. The names are those of the kernel's overlayfs.

    `volatile`: nothing is synced; after a crash the upper is worth nothing. `userxattr`: marks as `user.overlay.*` even
    where `trusted.` could be written. `redirect_dir`: `on`, directories with lower parts can be renamed; `follow`, only
    those that were are followed; `nofollow`, not even that (EPERM). `index`: hard links of a lower stay one file when
    they are copied up, also over a remount. `uuid`: if off and all layers lie on one file system, the index does not
    name it, so that it holds on a copy of the disk. `override`: the attribute that holds the owners and modes of
    what is in the upper instead of its inodes (see `overrides`). `whiteout`: the form in which whiteouts are written;
    None: one that the upper's file system can carry (see `disk`). `reader`: for what modes of lowers keep us out of.
    """

    volatile: bool = False
    userxattr: bool = False
    redirect_dir: Literal["on", "follow", "nofollow"] = "on"
    index: bool = True
    uuid: bool = True
    owners: Owners = AS_THEY_ARE
    override: bytes | None = None
    whiteout: Form | None = None
    reader: Reader | None = None


P = ParamSpec("P")
R = TypeVar("R")


def _past_modes(
    operation: Callable[Concatenate[Filesystem, P], R],
) -> Callable[Concatenate[Filesystem, P], R]:
    """Run an operation again with modes of the upper widened where one of them was in its way (see `modes`)."""

    @functools.wraps(operation)
    def attempt(self: Filesystem, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return operation(self, *args, **kwargs)
        except PermissionError as error:
            modes = self.tree.modes
            if modes is None or modes.active or error.errno != errno.EACCES:
                raise
        with modes.opened():
            return operation(self, *args, **kwargs)

    return attempt  # type: ignore[return-value]  # typeshed calls it a _Wrapped, mypy wants a function


class Filesystem:
    """Attributes: `tree` is the merge and the nodes, `files` what is open."""

    def __init__(
        self,
        lowers: Sequence[OpenedLayer],
        upper: OpenedLayer | None = None,
        work: OpenedLayer | None = None,
        options: Options = Options(),
    ) -> None:
        """Merge `lowers`, top first, below `upper` if there is one, with its work directory on the same mount.

        Raises OSError: EXDEV if upper and work lie on different mounts, `disk.Unfit` if the upper's file system cannot
        carry what it must hold, ENOTEMPTY if attributes are to hold owners and modes (`Options.override`) and it holds
        files made otherwise.
        """
        self.shares = shares()
        self._descriptors = descriptors = Descriptors(self.shares.places)
        opened = [*([upper] if upper else []), *lowers]
        written = [layer.fd for layer in (upper, work) if layer is not None]
        layers = [
            Layer(
                layer.fd,
                index,
                path=layer.path,
                writable=layer is upper,
                descriptors=descriptors,
                mounted_in=layer.mounted_in,
                idmapped=layer.idmapped,
            )
            for index, layer in enumerate(opened)
        ]
        for layer in layers:
            layer.reader = None if layer.writable else options.reader
            layer.override = overrides.find(
                layer.root.proc_path(), anybodys=options.override == overrides.CONTAINERS
            )
        self.layers: Sequence[Layer] = layers
        if not options.uuid and len({layer.root.stat().st_dev for layer in layers}) == 1:
            for layer in layers:
                layer.names_disk = False
        self._bound = options.reader is not None  # by modes
        self._work_layer: Layer | None = None
        table = Table()
        prefix = marks_format.USER if options.userxattr else marks_format.TRUSTED
        redirects = options.redirect_dir == "on"
        marks = Marks(prefix)
        owners = options.owners
        copyup = whiteouts = disk = None
        form: Form = "device"
        if upper is not None:
            if work is None:
                raise ValueError("an upper needs a work directory")
            self._work_layer = Layer(
                work.fd, -1, path=work.path, writable=True, descriptors=descriptors
            )
            _require_one_mount(self._work_layer, layers[0])
            room = Work(self._work_layer, layers[0].root)
            if options.override is not None:
                _hold_permissions_in(layers[0], options.override)
            self._work_layer.override = layers[0].override
            if options.override is None:
                owners = owners.held_in(room.can_give_to_user, room.can_give_to_group)
            disk = probe(room.place.proc_path(), user=options.userxattr)
            try:
                form = disk.form(options.whiteout)
                _require_same_marks(layers[0].root.proc_path(), disk.prefix)
            except Unfit:
                descriptors.close()
                raise
            marks = Marks(
                disk.prefix or prefix, attributes=disk.prefix is not None, names=form == "aufs"
            )
            redirects = redirects and marks.attributes
            copyup = CopyUp(
                table,
                marks,
                room,
                owners,
                [layer for layer in layers if not layer.writable],
                volatile=options.volatile,
                index=options.index and marks.attributes and disk.hard_links,
            )
        merge = Merge(
            layers,
            marks,
            follow=options.redirect_dir != "nofollow",
            traps=frozenset((st.st_dev, st.st_ino) for st in map(os.fstat, written)),
        )
        if copyup is not None and disk is not None:
            whiteouts = Whiteouts(copyup.work, marks, merge, disk, form)
        self.tree = Tree(
            layers,
            table,
            merge,
            marks,
            owners,
            copyup,
            whiteouts,
        )
        self._lock = -1 if upper is None else upper.lock
        self._closed = False
        self.files = Files(self.tree, Descriptors(self.shares.files), volatile=options.volatile)
        self._listings = Listings(self._entries)
        self._creation = Creation(self.tree)
        self._removal = Removal(self.tree)
        self._renaming = Renaming(self.tree, self._removal, redirects=redirects)

    def close(self) -> None:
        """Close every descriptor; the nodes are dead. Again does nothing.

        Requires: no operation is under way, and none follows.
        """
        if self._closed:
            return
        self._closed = True
        for handle in list(self.files.by_handle):
            self.files.by_handle.pop(handle).close()
        for node in self.tree.table.by_number.values():
            if isinstance(node, File) and node.orphan >= 0:
                os.close(node.orphan)
            elif isinstance(node, Directory) and node.orphaned and node.upper is not None:
                node.upper.close()
        self._descriptors.close()
        for layer in self.layers:
            layer.close()
        if self._work_layer is not None:
            self._work_layer.close()
        if self._lock >= 0:
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def between_operations(self) -> None:
        """Close descriptors that are too many."""
        self._descriptors.trim()
        self.files.descriptors.trim()

    @property
    def root(self) -> Directory:
        return self.tree.root

    # Nodes

    def node(self, number: int) -> Node:
        """Raises OSError (ESTALE) for a number that was never given out, or forgotten."""
        node = self.tree.table.by_number.get(number)
        if node is None:
            fail(errno.ESTALE)
        return node

    def directory(self, number: int) -> Directory:
        """Raises OSError: ESTALE, ENOTDIR."""
        node = self.node(number)
        if not isinstance(node, Directory):
            fail(errno.ENOTDIR)
        return node

    def file(self, number: int) -> File:
        """Raises OSError: ESTALE, EISDIR."""
        node = self.node(number)
        if isinstance(node, Directory):
            fail(errno.EISDIR)
        return node

    @_past_modes
    def lookup(self, directory: Directory, name: bytes) -> Node | None:
        """What `name` means; None if there is nothing."""
        return self.tree.lookup(directory, name)

    @_past_modes
    def lookup_with_attributes(
        self, directory: Directory, name: bytes
    ) -> tuple[Node, Attributes] | None:
        """As `lookup`, with what the search has seen of it."""
        return self.tree.lookup_with_attributes(directory, name)

    def forget(self, number: int, count: int) -> None:
        """Give `count` lookups of a node back."""
        node = self.tree.table.by_number.get(number)
        if node is not None and node is not self.root:
            node.lookups -= count
            self.tree.table.settle(node)

    def settle(self, node: Node) -> None:
        """Drop a node that was looked up for nothing."""
        self.tree.table.settle(node)

    # Attributes

    @_past_modes
    def attributes(self, node: Node) -> Attributes:
        return self.tree.attributes(node)

    @_past_modes
    def copied_to_change(self, node: Node, changes: Changes) -> File | None:
        """The file, if it may take a copy-up to change it."""
        if not isinstance(node, File) or (not node.has_upper and self._kept_as_is(node, changes)):
            return None
        return node

    @_past_modes
    def change(self, node: Node, changes: Changes) -> Attributes:
        """setattr: copy up if need be, then owner, mode, size and times; the attributes afterwards.

        Raises OSError: EROFS, EPERM and the like.
        """
        kept = self._kept_as_is(node, changes)
        if kept is None:
            self._change_inode(node, changes)
        if changes.asked_ns:
            self.tree.table.change_times.tell(node.number, changes.asked_ns)
        return self.tree.attributes(node, kept)

    def _kept_as_is(self, node: Node, changes: Changes) -> os.stat_result | None:
        """The inode's stat, if nothing is lost by leaving it as it is; None if a change is to be made in the upper.

        The kernel keeps the modification and change times of regular files itself while it knows them, and tells them
        after each change of their names or attributes (fs/fuse/dir.c: fuse_update_ctime_in_cache). So nothing is lost
        of a file that has no name any more, nor of one in a lower that has what is asked for.
        """
        if isinstance(node, Directory) or node.kind != stat.S_IFREG:
            return None
        if node.has_upper and (node.links or not changes.is_modification_time):
            return None
        now = self.tree.attributes(node)
        if now.link_count == 0 and changes.is_modification_time:
            return now.stat
        return now.stat if not node.has_upper and changes.are_in(now) else None

    def _change_inode(self, node: Node, changes: Changes) -> None:
        tree = self.tree
        if isinstance(node, File):
            metadata_only = changes.size is None
            if node.needs_copy(metadata_only=metadata_only):
                tree.copyup.file(node, keep_data=changes.size != 0, metadata_only=metadata_only)
        else:
            tree.copy_up(node)
        location = tree.location(node)
        if changes.is_empty:
            location.chown(-1, -1)
        if (changes.mode, changes.uid, changes.gid) != (None, None, None):
            self.files.wake(node)
        self._change_permissions(node, location, changes)
        if changes.size is not None:
            if isinstance(node, Directory):
                fail(errno.EISDIR)
            self.files.resize(node, changes.size)
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            modified = changes.mtime_ns
            if modified is not None and isinstance(node, File) and node.opened is not None:
                if changes.written_back and node.opened.is_outdated(changes.asked_ns):
                    modified = None
                else:
                    node.opened.asked_ns = changes.asked_ns
                    node.opened.modified = None
            st = location.stat()
            has_them = changes.atime_ns in (None, st.st_atime_ns) and modified == st.st_mtime_ns
            if has_them and 0 < changes.asked_ns <= st.st_ctime_ns:
                return  # to set them again would only move the change time on the disk
            _native.utimensat(
                location.dirfd,
                location.name,
                changes.atime_ns,
                modified,
                0 if location.follow else _native.AT_SYMLINK_NOFOLLOW,
            )

    def _change_permissions(self, node: Node, location: Location, changes: Changes) -> None:
        tree = self.tree
        owners = tree.owners
        uid = -1 if changes.uid is None else owners.users.stored(changes.uid)
        gid = -1 if changes.gid is None else owners.groups.stored(changes.gid)
        name = tree.override_name(node)
        if name is not None:
            before = tree.override(node, name) or Override.of(location.stat())
            after = Override(
                before.uid if uid == -1 else uid,
                before.gid if gid == -1 else gid,
                before.mode if changes.mode is None else stat.S_IMODE(changes.mode),
            )
            if after != before:
                overrides.write(location.path, name, after)
            return
        if uid != -1 or gid != -1:
            location.chown(uid, gid)
        if changes.mode is not None:
            if node.kind == stat.S_IFLNK:
                fail(errno.EOPNOTSUPP)
            tree.show_mode(location)
            os.chmod(location.name, stat.S_IMODE(changes.mode), dir_fd=location.dirfd)

    @_past_modes
    def begin_copy_up(
        self, node: File, *, keep_data: bool = True, metadata_only: bool = False
    ) -> Copy | None:
        """The copy that must come before the file is changed; None if there is no need. Raises OSError (EROFS)."""
        copyup = self.tree.copyup
        if not node.needs_copy(metadata_only=metadata_only):
            return None
        return copyup.begin(node, keep_data=keep_data, metadata_only=metadata_only)

    @_past_modes
    def copied_to_unlink(self, directory: Directory, name: bytes) -> File | None:
        """The file that `name` means, if removing the name takes a copy-up: a hard link whose names are counted."""
        node = self.tree.lookup(directory, name) if self.tree.writable else None
        return node if isinstance(node, File) and self.tree.is_copied_to_unlink(node) else None

    @_past_modes
    def readlink(self, node: Node) -> bytes:
        location = self.tree.location(node)
        if location.follow:  # an orphan: its descriptor is the symlink itself
            return os.readlink(b"", dir_fd=int(location.name.rpartition(b"/")[2]))
        return location.read(lambda: os.readlink(location.name, dir_fd=location.dirfd))

    # Names

    @_past_modes
    def create(
        self, directory: Directory, name: bytes, mode: int, caller: Caller
    ) -> tuple[File, int]:
        """A new regular file, and a handle of it."""
        node, fd = self._creation.file(directory, name, mode, caller)
        return node, self.files.adopt(node, fd)

    @_past_modes
    def mkdir(self, directory: Directory, name: bytes, mode: int, caller: Caller) -> Node:
        return self._creation.directory(directory, name, mode, caller)

    @_past_modes
    def mknod(
        self, directory: Directory, name: bytes, mode: int, device: int, caller: Caller
    ) -> Node:
        return self._creation.special(directory, name, mode, device, caller)

    @_past_modes
    def symlink(self, directory: Directory, name: bytes, target: bytes, caller: Caller) -> Node:
        return self._creation.symlink(directory, name, target, caller)

    @staticmethod
    def check_name(name: bytes) -> None:
        """Raises OSError (EINVAL) for a name that nothing new can have: ask before anything is copied for it."""
        check_name(name)

    @_past_modes
    def link(self, node: File, directory: Directory, name: bytes) -> None:
        self._creation.link(node, directory, name)

    @_past_modes
    def unlink(self, directory: Directory, name: bytes) -> None:
        self._removal.unlink(directory, name)

    @_past_modes
    def rmdir(self, directory: Directory, name: bytes) -> None:
        self._removal.rmdir(directory, name)

    @_past_modes
    def rename(
        self,
        old_directory: Directory,
        old_name: bytes,
        new_directory: Directory,
        new_name: bytes,
        flags: int = 0,
    ) -> None:
        self._renaming.rename(old_directory, old_name, new_directory, new_name, flags)

    # Files

    @_past_modes
    def may_copy_later(self, node: File) -> bool:
        """Whether a file that is opened for writing may stay in its lower until something is written to it."""
        return self.files.may_copy_later(node)

    @_past_modes
    def open(self, node: File, flags: int, *, lazily: bool = False) -> int:
        """A handle. `flags` as for open(2); copies up for writing (unless `lazily`), truncates for O_TRUNC."""
        return self.files.open(node, flags, lazily=lazily)

    def release(self, handle: int) -> None:
        self.files.release(handle)

    def read(self, handle: int, offset: int, size: int) -> bytes:
        return self.files.read(handle, offset, size)

    def write(self, handle: int, offset: int, data: bytes) -> int:
        return self.files.write(handle, offset, data)

    @staticmethod
    def wants_to_write(flags: int) -> bool:
        return wants_to_write(flags)

    # Directories

    @_past_modes
    def listing(self, directory: Directory, *, anew: bool) -> Listing:
        """The merged listing, from the start as it is now (`anew`), or the one begun before."""
        return self._listings.get(directory, anew=anew)

    def end_listing(self, directory: Directory, listing: Listing) -> None:
        """It was read to its end by one who began it."""
        self._listings.end(directory, listing)

    def _entries(self, directory: Directory) -> list[Entry]:
        return [] if directory.orphaned else self.tree.merge.entries(directory)

    def look_up_entry(self, directory: Directory, entry: Entry) -> tuple[Node, Attributes] | None:
        """The node of an entry of a listing and its attributes; None if it has gone since.

        Raises OSError: EACCES where it takes more than a look, since there are many.
        """
        tree = self.tree
        name, _, place, _ = entry
        node = directory.known.get(name)
        if self._bound and not os.access(place.proc_path(), os.X_OK):
            fail(errno.EACCES, name)
        if node is not None:
            return node, tree.attributes(node)
        if directory.orphaned:  # what it held has gone, and its lowers with it
            return None
        listing = directory.listing
        written_to = listing is None or listing.written_to
        found = tree.merge.find_below(directory, entry, written_to=written_to)
        return None if found is None else tree.take_up_with_attributes(directory, name, found)

    def numbers(self, directory: Directory, entries: Iterable[Entry]) -> Iterator[int]:
        """For each entry of a listing the number that its node has or would get; 0 if only `look_up_entry` tells."""
        return self.tree.numbers(directory, entries)

    # Extended attributes

    @_past_modes
    def getxattr(self, node: Node, name: bytes) -> bytes:
        """Raises OSError (ENODATA); the overlay's own are not there."""
        if name == self.tree.override_name(node):
            fail(errno.ENODATA)
        location = self.tree.writable_location(node)
        stored = self.tree.marks.escape(name)
        value = location.read(
            lambda: os.getxattr(location.path, stored, follow_symlinks=location.follow)
        )
        if name not in marks_format.ACLS:
            return value
        return acl.shown(value, self.tree.owners, idmapped=self.tree.layer_of(node).idmapped)

    @_past_modes
    def listxattr(self, node: Node, *, trusted: bool) -> list[bytes]:
        """The names of a node's attributes; those under `trusted.` only if asked for."""
        location = self.tree.location(node)
        marks = self.tree.marks
        try:
            names = location.read(
                lambda: os.listxattr(location.path, follow_symlinks=location.follow)
            )
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return []
            raise
        encoded = (os.fsencode(name) for name in names)
        override = self.tree.override_name(node)
        shown = (
            marks.unescape(name) for name in encoded if not marks.hidden(name) and name != override
        )
        return [name for name in shown if trusted or not name.startswith(b"trusted.")]

    @_past_modes
    def setxattr(self, node: Node, name: bytes, value: bytes, *, cleared: int = 0) -> None:
        """Set an attribute, and clear the bits `cleared` of the mode, as an ACL set from outside the group does.

        Raises OSError: EPERM for the attribute that holds owner and mode, EACCES for a file's default ACL.
        """
        self.require_settable(node, name)
        is_acl = name in marks_format.ACLS
        if is_acl:
            value = acl.stored(value, self.tree.owners)
        self.tree.copy_up(node)
        if is_acl:  # which changes the mode, and takes no permission by it
            self.files.wake(node)
            location = self.tree.location(node)
            self.tree.show_mode(location)
        else:
            location = self.tree.writable_location(node)
        stored = self.tree.marks.escape(name)
        os.setxattr(location.path, stored, value, follow_symlinks=location.follow)
        if cleared:
            mode = stat.S_IMODE(location.stat().st_mode)
            if mode & cleared:
                os.chmod(location.name, mode & ~cleared, dir_fd=location.dirfd)

    def require_settable(self, node: Node, name: bytes) -> None:
        """Raises OSError: EPERM for the attribute that holds owner and mode, here or once it is copied up; EACCES for a
        default ACL of what is no directory."""
        if name == marks_format.DEFAULT_ACL and node.kind != stat.S_IFDIR:
            fail(errno.EACCES)
        if overrides.applies(node.kind) and name in (
            self.layers[0].override,
            self.tree.override_name(node),
        ):
            fail(errno.EPERM)

    @_past_modes
    def removexattr(self, node: Node, name: bytes) -> None:
        """Raises OSError (ENODATA) without copying up for an attribute that is not there."""
        if not self.has_xattr_to_remove(node, name):
            return
        self.tree.copy_up(node)
        if name in marks_format.ACLS:
            self.files.wake(node)
        location = self.tree.writable_location(node)
        os.removexattr(location.path, self.tree.marks.escape(name), follow_symlinks=location.follow)

    def has_xattr_to_remove(self, node: Node, name: bytes) -> bool:
        """Whether an attribute is there. Raises OSError (ENODATA) if not, save for ACLs, whose removal succeeds."""
        try:
            self.getxattr(node, name)
        except OSError as error:
            if error.errno != errno.ENODATA or name not in marks_format.ACLS:
                raise
            return False
        return True

    # The whole

    @_past_modes
    def open_directory(self, directory: Directory) -> int | None:
        """A descriptor of the directory in the upper, the caller's to close, for fsync(2); None if it has none."""
        return None if directory.upper is None else directory.upper.open_for_reading()

    def statfs(self) -> os.statvfs_result:
        """Of the file system that new data go to: the upper's, else the topmost lower's."""
        return os.statvfs(self.layers[0].root.fd())

    def counts(self) -> dict[str, int]:
        """What is held in memory: nodes, lookups, open files, descriptors of places."""
        table = self.tree.table.by_number
        return {
            "nodes": len(table),
            "lookups": sum(node.lookups for node in table.values()),
            "open_files": len(self.files.by_handle),
            "places": len(self._descriptors),
        }


def _hold_permissions_in(upper: Layer, name: bytes) -> None:
    """Keep the upper's owners and modes in an attribute from now on: in `name`, unless its root says that another one
    has them. The root says so to later readers too."""
    if upper.override is None:
        if os.listdir(upper.root.proc_path()):  # what is there may have been planted
            fail(errno.ENOTEMPTY, os.fsencode(upper.path))
        path = upper.root.proc_path()
        overrides.write(path, name, Override.of(os.stat(path)))
        upper.override = name


def _require_same_marks(upper: bytes, prefix: bytes | None) -> None:
    """Raises Unfit if the upper holds marks under the other prefix, which would say nothing now."""
    names = () if prefix is None else marks_format.xattr_names(upper)
    if prefix != marks_format.USER and marks_format.USER + b"impure" in names:
        raise Unfit("its marks are a user's (user.overlay.*)", "give userxattr")
    if prefix == marks_format.USER and marks_format.TRUSTED + b"impure" in names:
        raise Unfit("its marks are root's (trusted.overlay.*)", "leave userxattr out")


def _require_one_mount(work: Layer, upper: Layer) -> None:
    """Raises OSError (EXDEV) unless a rename can lead from the work directory into the upper."""
    mounts = {
        _native.statx(place.fd(), b"", _native.AT_EMPTY_PATH, _native.STATX_MNT_ID).mnt_id
        for place in (work.root, upper.root)
    }
    if len(mounts) > 1:
        fail(errno.EXDEV, os.fsencode(upper.path))
