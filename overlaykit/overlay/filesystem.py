"""The POSIX operations on nodes. Plain calls, plain `OSError(errno)`.

A `Filesystem` is one mounted stack. Operations take and return nodes (`nodes.File`, `nodes.Directory`). To keep a node
beyond the call, the caller counts a lookup on it (`node.nlookup += 1`) and gives it back with `forget`. It calls
`between_operations` now and then, when no operation is under way, and `close` at the end.

The caller may cache everything without limit: while it is mounted nothing else changes the layers.
"""

from __future__ import annotations

import errno
import functools
import os
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Self, TypeVar

from overlaykit.overlay.changing import Changing
from overlaykit.overlay.creation import Creation, check_name
from overlaykit.overlay.descriptors import Descriptors, shares
from overlaykit.overlay.filecopy import Copy
from overlaykit.overlay.files import Files, wants_to_write
from overlaykit.overlay.links import Links
from overlaykit.overlay.listing import Listing, Listings
from overlaykit.overlay.nodes import Directory, File
from overlaykit.overlay.removal import Removal
from overlaykit.overlay.renaming import Renaming
from overlaykit.overlay.stack import DEFAULTS, assemble
from overlaykit.overlay.tree import fail
from overlaykit.overlay.xattrs import Xattrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from overlaykit.overlay.attributes import Attributes, Caller, Changes
    from overlaykit.overlay.merge import Entry
    from overlaykit.overlay.nodes import Node
    from overlaykit.overlay.stack import MergeOptions, OpenedLayer


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
        options: MergeOptions = DEFAULTS,
    ) -> None:
        """Merge `lowers`, top first, below `upper` if there is one, with its work directory on the same mount.

        Raises OSError: EXDEV if upper and work lie on different mounts, `disk.Unfit` if the upper's file system cannot
        carry what it must hold, ENOTEMPTY if attributes are to hold owners and modes (`MergeOptions.override`) and it
        holds files made otherwise.
        """
        self.shares = shares()
        self._descriptors = Descriptors(self.shares.directories)
        self._stack = stack = assemble(lowers, upper, work, options, self._descriptors)
        self._bound = options.reader is not None  # by modes
        self._closed = False
        self.tree = stack.tree
        self.files = Files(self.tree, Descriptors(self.shares.files), volatile=options.volatile)
        self._listings = Listings(self._entries)
        self._links = Links(self.tree)
        self._creation = Creation(self.tree, self._links)
        self._removal = Removal(self.tree, self._links)
        self._renaming = Renaming(self.tree, self._links, self._removal, redirects=stack.redirects)
        self._changing = Changing(self.tree, self.files)
        self._xattrs = Xattrs(self.tree, self.files)

    def close(self) -> None:
        """Close every descriptor; the nodes are dead. Again does nothing.

        Requires: no operation is under way, and none follows.
        """
        if self._closed:
            return
        self._closed = True
        for handle in list(self.files.by_handle):
            self.files.by_handle.pop(handle).close()
        for node in self.tree.table.by_nodeid.values():
            if isinstance(node, File) and node.orphan >= 0:
                os.close(node.orphan)
            elif isinstance(node, Directory) and node.orphaned and node.upper is not None:
                node.upper.close()
        self._descriptors.close()
        self._stack.close()

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
        node = self.tree.table.by_nodeid.get(number)
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
        node = self.tree.table.by_nodeid.get(number)
        if node is not None and node is not self.root:
            node.nlookup -= count
            self.tree.table.evict_if_unused(node)

    def evict_if_unused(self, node: Node) -> None:
        """Drop a node that was looked up for nothing."""
        self.tree.table.evict_if_unused(node)

    # Attributes

    @_past_modes
    def attributes(self, node: Node) -> Attributes:
        return self.tree.attributes(node)

    @_past_modes
    def copied_to_change(self, node: Node, changes: Changes) -> File | None:
        """The file, if a change takes a copy-up."""
        return self._changing.copied_to_change(node, changes)

    @_past_modes
    def change(self, node: Node, changes: Changes) -> Attributes:
        """setattr: the attributes afterwards. Raises OSError: EROFS, EPERM and the like."""
        return self._changing.change(node, changes)

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
        return node if isinstance(node, File) and self._links.is_copied_to_unlink(node) else None

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
    def listing(self, directory: Directory, *, restart: bool) -> Listing:
        """The merged listing: the directory as it is now (`restart`), or the listing that was begun."""
        return self._listings.get(directory, restart=restart)

    def end_listing(self, directory: Directory, listing: Listing) -> None:
        """A reader came to the end of the listing."""
        self._listings.end(directory, listing)

    def _entries(self, directory: Directory) -> list[Entry]:
        return [] if directory.orphaned else self.tree.merge.entries(directory)

    def look_up_entry(self, directory: Directory, entry: Entry) -> tuple[Node, Attributes] | None:
        """The node of an entry of a listing and its attributes; None if it has gone since.

        Raises OSError: EACCES where it takes more than a look, since there are many.
        """
        tree = self.tree
        name, _, layer_dir, _ = entry
        node = directory.children.get(name)
        if self._bound and not os.access(layer_dir.proc_path(), os.X_OK):
            fail(errno.EACCES, name)
        if node is not None:
            return node, tree.attributes(node)
        if directory.orphaned:  # what it held has gone, and its lowers with it
            return None
        listing = directory.listing
        written_to = listing is None or listing.written_to
        found = tree.merge.find_below(directory, entry, written_to=written_to)
        return None if found is None else tree.get_or_create_with_attributes(directory, name, found)

    def numbers(self, directory: Directory, entries: Iterable[Entry]) -> Iterator[int]:
        """For each entry of a listing the number that its node has or would get; 0 if only `look_up_entry` tells."""
        return self.tree.numbers(directory, entries)

    # Extended attributes

    @_past_modes
    def getxattr(self, node: Node, name: bytes) -> bytes:
        """Raises OSError (ENODATA); the overlay's own are not there."""
        return self._xattrs.get(node, name)

    @_past_modes
    def listxattr(self, node: Node, *, trusted: bool) -> list[bytes]:
        """The names of a node's attributes; those under `trusted.` only if asked for."""
        return self._xattrs.names(node, trusted=trusted)

    @_past_modes
    def setxattr(self, node: Node, name: bytes, value: bytes, *, cleared: int = 0) -> None:
        """Set an attribute, and clear the bits `cleared` of the mode, as an ACL set from outside the group does.

        Raises OSError: as `require_settable`.
        """
        self._xattrs.set(node, name, value, cleared=cleared)

    def require_settable(self, node: Node, name: bytes) -> None:
        """Raises OSError: EPERM for the attribute that holds owner and mode, EACCES for a file's default ACL."""
        self._xattrs.require_settable(node, name)

    @_past_modes
    def removexattr(self, node: Node, name: bytes) -> None:
        """Raises OSError (ENODATA) without copying up for an attribute that is not there."""
        self._xattrs.remove(node, name)

    @_past_modes
    def has_xattr_to_remove(self, node: Node, name: bytes) -> bool:
        """Whether an attribute is there. Raises OSError (ENODATA) if not, save for ACLs, whose removal succeeds."""
        return self._xattrs.has_to_remove(node, name)

    # The whole

    @_past_modes
    def open_directory(self, directory: Directory) -> int | None:
        """A descriptor of the directory in the upper, the caller's to close, for fsync(2); None if it has none."""
        return None if directory.upper is None else directory.upper.open_for_reading()

    def statfs(self) -> os.statvfs_result:
        """Of the file system that new data go to: the upper's, else the topmost lower's."""
        return os.statvfs(self.tree.layers[0].root.fd())

    def counts(self) -> dict[str, int]:
        """What is held in memory: nodes, lookups, open files, descriptors of directories."""
        table = self.tree.table.by_nodeid
        return {
            "nodes": len(table),
            "nlookup": sum(node.nlookup for node in table.values()),
            "open_files": len(self.files.by_handle),
            "directories": len(self._descriptors),
        }
