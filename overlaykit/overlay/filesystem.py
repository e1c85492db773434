"""One mounted stack, and the parts that offer the operations on it. Plain calls, plain `OSError(errno)`.

Operations take and return nodes (`nodes.File`, `nodes.Directory`). To keep a node beyond the call, the caller counts a
lookup of it (`node.count_lookup()`) and gives it back with `nodes.forget`. It calls `between_operations` now and then,
and `close` at the end. The package's docstring says which calls may run in a thread.

Only these operations change the upper while it is mounted. A lower may change (the layer `host` is live): what the
caller has cached of it then stays as it was.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Self

from overlaykit.overlay import freezing, freezing_mount
from overlaykit.overlay.changing import Changing
from overlaykit.overlay.creation import Creation
from overlaykit.overlay.descriptors import Descriptors, shares
from overlaykit.overlay.entries import Entries
from overlaykit.overlay.files import Files
from overlaykit.overlay.links import Links
from overlaykit.overlay.listing import Listings
from overlaykit.overlay.lookup import Lookup
from overlaykit.overlay.removal import Removal
from overlaykit.overlay.renaming import Renaming
from overlaykit.overlay.restacking import Restacking
from overlaykit.overlay.stack import DEFAULTS, assemble
from overlaykit.overlay.xattrs import Xattrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlaykit.overlay.copyup import CopyUp
    from overlaykit.overlay.freezing import Places
    from overlaykit.overlay.nodes import Directory
    from overlaykit.overlay.opened import OpenedLayer
    from overlaykit.overlay.stack import MergeOptions


class Filesystem:
    """The parts of a mount.

    Attributes:
      nodes: the nodes by nodeid, and their lookup counts.
      lookup: from names to nodes.
      tree: reads attributes and symlinks.
      listings, entries: read directories.
      creation, removal, renaming: change names.
      changing, xattrs: change attributes.
      files: open files.
      copyup: copies up what is to be changed.
      restacking: has other layers come and go.
      shares: how many descriptors each kind of holder may keep open.
    """

    def __init__(
        self,
        lowers: Sequence[OpenedLayer],
        upper: OpenedLayer | None = None,
        work: OpenedLayer | None = None,
        options: MergeOptions = DEFAULTS,
    ) -> None:
        """Merge `lowers`, top first, below `upper` if there is one; its work directory is on the same mount.

        Raises OSError: EXDEV if upper and work lie on different mounts, `disk.Unfit` if the upper's file system cannot
        hold what it must, ENOTEMPTY if attributes are to hold owners and modes (`MergeOptions.override`) and the upper
        holds files made otherwise.
        """
        self.shares = shares()
        self._descriptors = Descriptors(self.shares.directories)
        self._stack = assemble(lowers, upper, work, options, self._descriptors)
        self._closed = False
        self.tree = tree = self._stack.tree
        self.nodes = tree.table
        links = Links(tree)
        self.lookup = Lookup(tree, links)
        self.entries = Entries(tree, self.lookup, bound=options.reader is not None)
        self.listings = Listings(self.entries.read, tree.modes)
        self.files = Files(tree, Descriptors(self.shares.files), volatile=options.volatile)
        if tree.quota is not None:
            tree.quota.include(self.files.by_handle)
        self.creation = Creation(tree, self.lookup, links, self.files)
        self.removal = Removal(tree, self.lookup, links)
        self.renaming = Renaming(
            tree, self.lookup, links, self.removal, redirects=self._stack.redirects
        )
        self.changing = Changing(tree, self.files)
        self.xattrs = Xattrs(tree, self.files)
        self.restacking = Restacking(self, self._descriptors)

    def write_through(self) -> None:
        """The kernel has no writeback cache: sizes and times are those of the disk. Requires: no operation yet."""
        self.files.writes_back = False
        self.nodes.change_times.records = False

    def close(self) -> None:
        """Close every descriptor. A second call does nothing.

        Requires: no operation runs, and none follows.
        """
        if self._closed:
            return
        self._closed = True
        self.files.close()
        self.nodes.close()
        if self.tree.writable:
            self.tree.copyup.programs.close()
        self._descriptors.close()
        self.restacking.close()
        self._stack.close()

    def release_descriptors(self) -> None:
        """Close the descriptors that are opened again when they are used. Requires: no operation is on the stack."""
        self._descriptors.close()
        self.files.descriptors.close()

    def take_over(self) -> None:
        """Continue from a process that was killed, and that has changed the upper since this one was forked.

        Requires: no file is open. Raises: OSError.
        """
        self.lookup.numbering.learn()
        if self.tree.writable:
            self.tree.work.modes.recover()
            self.tree.work.clear()
        if self.tree.quota is not None:
            self.tree.quota.recount()

    def freeze(self, places: Places, path: str) -> None:
        """Let the upper be the topmost lower from now on, and a new, empty one take its place.

        Programs see no change, and what they have open stays open. `path`: of the directory `places.frozen`.
        Requires: no request is under way; the kernel writes and reads files through this process.
        Raises: OSError, with nothing changed; EROFS without an upper.
        """
        with contextlib.ExitStack() as undo:
            switch = freezing_mount.prepare(self._stack, places, path, undo)
            readers = self.files.readers()
            for fd in readers.values():
                undo.callback(os.close, fd)
            freezing_mount.part_nameless(self.nodes, self.copyup)
            if self.nodes.plane is not None:
                self.nodes.plane.begin_leaving()
            freezing.change_places(places)
            undo.pop_all()
        self.files.freeze(readers)
        if self.nodes.plane is not None:
            self.nodes.plane.leave()
        self._stack = switch()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def between_operations(self) -> None:
        """Close descriptors that are too many.

        Requires: no operation is on the stack; a copy may be in `transfer`, in another thread.
        """
        self._descriptors.trim()
        self.files.descriptors.trim()

    @property
    def root(self) -> Directory:
        return self.tree.root

    @property
    def copyup(self) -> CopyUp:
        """Raises OSError (EROFS) without an upper."""
        return self.tree.copyup

    @property
    def work_path(self) -> str | None:
        """The path of the work directory; None without an upper."""
        return None if self._stack.work is None else self._stack.work.path

    def counts(self) -> dict[str, int]:
        """How many nodes, lookups, open files and descriptors of directories are held in memory."""
        table = self.nodes.by_nodeid
        return {
            "nodes": len(table),
            "nlookup": sum(node.nlookup for node in table.values()),
            "open_files": sum(opened.count > 0 for opened in self.files.by_handle.values()),
            "directories": len(self._descriptors),
        }
