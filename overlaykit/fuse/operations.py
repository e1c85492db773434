"""The FUSE requests: pyfuse3's types in, calls of `overlaykit.overlay`, pyfuse3's types out.

The kernel may cache names, missing names, attributes and data without limit, as only the daemon changes the layers. Of
a layer that others may change, too (`host` is live), it caches names and attributes for a second, and each open
compares the file with the one that it knows: ESTALE has it look the name up again. A file's size and times are the
kernel's while it has dirty pages (writeback cache).

No merge logic lives here. `_request` turns an `OSError` into a `FUSEError`. The package docstring has the concurrency
rules.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import itertools
import logging
import os
import stat
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import pyfuse3
import trio

from overlaykit import attributes
from overlaykit.fuse import incomplete, keeper, notices, patches
from overlaykit.fuse.copying import Copying
from overlaykit.fuse.passthrough import Passthrough
from overlaykit.fuse.plane import Plane
from overlaykit.fuse.statistics import Clock
from overlaykit.fuse.tracing import KEPT_SECONDS, Trace
from overlaykit.overlay.attributes import Caller, Changes
from overlaykit.overlay.callers import asking
from overlaykit.overlay.creation import check_name
from overlaykit.overlay.files import wants_to_write
from overlaykit.overlay.liveness import Version
from overlaykit.overlay.markers import ACCESS_ACL, ACLS
from overlaykit.overlay.nodes import Directory, File

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from pyfuse3 import (
        EntryAttributes,
        FileHandleT,
        FileInfo,
        FileNameT,
        FlagT,
        InodeT,
        ModeT,
        ReaddirToken,
        RequestContext,
        SetattrFields,
        StatvfsData,
        XAttrNameT,
    )

    from overlaykit.fuse.poller import Poller
    from overlaykit.fuse.spec import MountOptions
    from overlaykit.overlay.attributes import Attributes
    from overlaykit.overlay.filesystem import Filesystem
    from overlaykit.overlay.freezing import Places
    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.listing import Listing
    from overlaykit.overlay.lookup import Result
    from overlaykit.overlay.merge import Entry
    from overlaykit.overlay.nodes import Node
    from overlaykit.overlay.opened import OpenedLayer

log: Final = logging.getLogger(__name__)

_NO_TIMEOUT_SECONDS: Final = 1e9
"""How long the kernel may cache names and attributes: longer than any mount lives."""

LIVE_SECONDS: Final = 1.0
"""The same of what others may change."""

_WIDE_ENTRIES: Final = 256
"""Most programs that list a directory with more entries use the names only."""

P = ParamSpec("P")
R = TypeVar("R")


def _request(
    handler: Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]]:
    """Count the request, translate its errors, and trim the cached descriptors after it."""
    name = handler.__name__

    @functools.wraps(handler)
    async def handle(self: Operations, *args: P.args, **kwargs: P.kwargs) -> R:
        self.requests[name] += 1
        self._under_way += 1
        # The context is the last argument; some requests have none.
        asking.set(patches.pid_of(args[-1]) if args else 0)
        began = time.perf_counter_ns()
        try:
            result = await handler(self, *args, **kwargs)
            if self.trace is not None:
                self.trace.note(name, args, result, 0)
            return result
        except OSError as error:
            number = error.errno or errno.EIO
            if number == errno.EDQUOT and self._by_project:
                number = errno.ENOSPC
            if self.trace is not None:
                self.trace.note(name, args, None, number)
            raise pyfuse3.FUSEError(number) from None
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            log.exception("%s failed", name)
            raise pyfuse3.FUSEError(errno.EIO) from error
        finally:
            self._under_way -= 1
            if self._quiet is not None and not self._under_way:
                self._quiet.set()
            self.filesystem.between_operations()
            self.clock.add(name, time.perf_counter_ns() - began)

    return handle  # type: ignore[return-value]  # typeshed calls it a _Wrapped, mypy wants a function


class Operations(pyfuse3.Operations):
    """The requests of one mount.

    Attributes:
      filesystem: the merge that the requests act on.
      requests: the number of requests by kind. Each has a fixed cost, so fewer requests are faster.
      trace: the trace that runs; None: there is none.
      clock: how long they took here, without what pyfuse3 and the kernel do around them.

    Invariant: each reply with an entry adds one to the node's nlookup.
    """

    supports_dot_lookup = False
    enable_writeback_cache = True

    def __init__(self, filesystem: Filesystem, options: MountOptions, poller: Poller) -> None:
        super().__init__()
        self._poller = poller
        self._by_project = options.by_project
        # Setting an ACL changes the mode of the real file, which `xattr_permissions` does not show.
        self.enable_acl = options.acl and options.xattr and not options.xattr_permissions
        self._xattr = options.xattr
        self.filesystem = filesystem
        self.requests: Counter[str] = Counter()
        self.clock = Clock()
        self._volatile = options.volatile
        self._dirsync = options.dirsync and not options.volatile
        self._static_nlink = options.static_nlink
        self._timeout = min(
            _NO_TIMEOUT_SECONDS if options.timeout is None else options.timeout, _NO_TIMEOUT_SECONDS
        )
        self._is_live = any(layer.live for layer in filesystem.tree.layers)
        self._growing: set[int] = set()
        self._live_timeout = min(self._timeout, LIVE_SECONDS)
        self._copying = Copying(filesystem, poller)
        self._options = options
        self._no_open = False
        self._under_way = 0
        self._quiet: trio.Event | None = None
        self.plane: Plane | None = None
        self.trace: Trace | None = None
        self._passthrough: Passthrough | None = None
        self._renamed: tuple[int, bytes, int, bytes] | None = None
        self._name_only_entry = patches.mark_name_only(pyfuse3.EntryAttributes())
        self._plain_entry = patches.mark_plain(pyfuse3.EntryAttributes())

    def begin_plane(self, *, is_kept: bool) -> None:
        """Let the data plane read the requests. Requires: no request yet but INIT.

        `is_kept`: another daemon takes over if this one is killed.
        """
        self.filesystem.files.no_open = self._no_open = self._options.no_open == "on"
        self.plane = Plane(
            self.filesystem,
            self._options,
            self._copying,
            self._count,
            timeout=self._timeout,
            live_timeout=self._live_timeout,
            acl=self.enable_acl,
            is_kept=is_kept,
            is_live=self._is_live,
        )
        self.plane.offer(self.filesystem.root)
        self._poller.plane = self.plane

    def _count(self, name: str, nanoseconds: int) -> None:
        self.requests[name] += 1
        self.clock.add(name, nanoseconds)

    def begin_passthrough(self, device: int) -> None:
        """Let the kernel read and write files itself. Requires: it takes files."""
        self._passthrough = Passthrough(device, self.filesystem)

    def begin_trace(self) -> Trace:
        """Begin a trace, until `end_trace`. Raises: OSError: EBUSY: one runs already."""
        if self.trace is not None:
            raise OSError(errno.EBUSY, "a trace of this mount runs already")
        self.trace = self._poller.trace = Trace(self.filesystem.nodes)
        return self.trace

    def end_trace(self) -> None:
        if self.trace is not None:
            self.trace.end()
        self.trace = self._poller.trace = None

    @property
    def has_open(self) -> bool:
        """Whether each open(2) of a program is a request."""
        return not self._no_open

    def close(self) -> None:
        """Close all files. Requires: the mount has ended."""
        if self._passthrough is not None:
            self._passthrough.close()
        if self.plane is not None:
            self.plane.close()
        self.filesystem.close()

    def take_over(self, device: int) -> None:
        """Continue after a daemon that was killed. Requires: `begin_plane`."""
        assert self.plane is not None
        self.filesystem.take_over()
        self._renamed = self.plane.finish_rename()
        keeper.resend(device)

    async def be_quiet(self) -> None:
        """Wait until no request is under way: the next call may change the layers.

        Raises: OSError: EOPNOTSUPP where the kernel writes files itself, or another daemon may take over.
        """
        if self._passthrough is not None or not self.filesystem.files.writes_back:
            raise OSError(
                errno.EOPNOTSUPP, "the kernel writes files itself (data=passthrough): mount without"
            )
        if self.plane is not None and self.plane.is_kept:
            raise OSError(
                errno.EOPNOTSUPP, "its daemon is restarted if it is killed (restart): mount without"
            )
        while self._under_way:
            self._quiet = trio.Event()
            await self._quiet.wait()

    def freeze(self, places: Places, path: str) -> None:
        """Freeze the upper (`Filesystem.freeze`). Requires: `be_quiet`. Raises: OSError."""
        self.filesystem.freeze(places, path)
        if self.plane is not None:
            self.plane.begin_again()
        self.filesystem.between_operations()

    def restack(self, lowers: Sequence[int | OpenedLayer]) -> list[tuple[int, set[bytes]]]:
        """Have other lowers. Returns: names, for `expire`. Requires: `be_quiet`. Raises: OSError."""
        names = self.filesystem.restacking.replace(lowers)
        self._is_live = any(layer.live for layer in self.filesystem.tree.layers)
        if self.plane is not None:
            self.plane.offer(self.filesystem.root)
        self.filesystem.between_operations()
        return names

    async def expire(self, names: list[tuple[int, set[bytes]]]) -> None:
        """Have the kernel ask again for names, each in the directory with that nodeid."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(notices.expire, self._poller.device, names)

    def held(self) -> dict[str, int]:
        """How many nodes, lookups, open files and descriptors of directories are held in memory."""
        counts = self.filesystem.counts()
        for name, count in self.plane.held().items() if self.plane is not None else ():
            counts[name] += count
        return counts

    def answered(self) -> int:
        """How many requests the data plane has answered."""
        return 0 if self.plane is None else self.plane.answered()

    # Names

    @_request
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        filesystem = self.filesystem
        directory = filesystem.nodes.directory(parent_inode)
        found = filesystem.lookup.find(directory, name)
        if found is None:
            missing = pyfuse3.EntryAttributes()
            # The kernel caches the missing name.
            missing.st_ino = 0
            missing.entry_timeout = (
                self._timeout_in(directory) if self.trace is None else KEPT_SECONDS
            )
            return missing
        entry = self._entry(*found)
        self._give(found.node)
        return entry

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        self.requests["forget"] += 1
        for nodeid, count in inode_list:
            self.filesystem.nodes.forget(nodeid, count)

    @_request
    async def mknod(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        rdev: int,
        ctx: RequestContext,
    ) -> EntryAttributes:
        directory = self.filesystem.nodes.directory(parent_inode)
        made = self._made_before(directory, name) or self.filesystem.creation.mknod(
            directory, name, mode, rdev, _caller(ctx)
        )
        self._changed(directory)
        return self._entry(*made)

    @_request
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        directory = self.filesystem.nodes.directory(parent_inode)
        made = self._made_before(directory, name) or self.filesystem.creation.mkdir(
            directory, name, mode, _caller(ctx)
        )
        self._changed(directory)
        if self.plane is not None:
            self.plane.offer(self.filesystem.nodes.directory(made.node.nodeid))
        return self._entry(*made)

    @_request
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        directory = self.filesystem.nodes.directory(parent_inode)
        made = self._made_before(directory, name) or self.filesystem.creation.symlink(
            directory, name, target, _caller(ctx)
        )
        self._changed(directory)
        return self._entry(*made)

    @_request
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        node = self.filesystem.nodes.file(inode)
        check_name(new_name)
        directory = self.filesystem.nodes.directory(new_parent_inode)
        if self._made_before(directory, new_name) is not None:
            return self._entry(node)
        incomplete.refuse(inode)
        await self._copying.copy_up(node, metadata_only=True)
        self.filesystem.creation.link(node, directory, new_name)
        self._changed(directory)
        return self._entry(node)

    @_request
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        directory = self.filesystem.nodes.directory(parent_inode)
        if self._removed_before(directory, name):
            return
        await self._copying.copy_up(
            self.filesystem.removal.copied_to_unlink(directory, name), metadata_only=True
        )
        self.filesystem.removal.unlink(directory, name)
        self._changed(directory)

    @_request
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        directory = self.filesystem.nodes.directory(parent_inode)
        if self._removed_before(directory, name):
            return
        self.filesystem.removal.rmdir(directory, name)
        self._changed(directory)

    @_request
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        filesystem = self.filesystem
        old = filesystem.nodes.directory(parent_inode_old)
        new = filesystem.nodes.directory(parent_inode_new)
        check_name(name_new)
        names = (parent_inode_old, name_old, parent_inode_new, name_new)
        if self._is_resent() and (
            names == self._renamed or filesystem.lookup.find(old, name_old) is None
        ):
            return
        source = filesystem.lookup.require(old, name_old)
        incomplete.refuse(source.nodeid)
        await self._copying.copy_up(source, metadata_only=True)
        exchanges = bool(flags & pyfuse3.RENAME_EXCHANGE)
        is_free = not exchanges and filesystem.lookup.find(new, name_new) is None
        if not is_free:
            replaced = (
                filesystem.lookup.require(new, name_new)
                if exchanges
                else filesystem.removal.copied_to_unlink(new, name_new)
            )
            await self._copying.copy_up(replaced, metadata_only=True)
        filesystem.renaming.rename(old, name_old, new, name_new, flags, is_free=is_free)
        self._changed(old, new)
        self._give(new.children.get(name_new))

    # A daemon that was killed may have carried out the request, and not answered it

    def _is_resent(self) -> bool:
        """Requires: the request has not been suspended."""
        return self.plane is not None and self.plane.is_resent()

    def _made_before(self, directory: Directory, name: bytes) -> Result | None:
        return self.filesystem.lookup.find(directory, name) if self._is_resent() else None

    def _removed_before(self, directory: Directory, name: bytes) -> bool:
        return self._is_resent() and self.filesystem.lookup.find(directory, name) is None

    @_request
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return self.filesystem.tree.readlink(self.filesystem.nodes.node(inode))

    # Attributes

    @_request
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        node = self.filesystem.nodes.node(inode)
        if self._is_live and isinstance(node, Directory) and node.listed:
            self._drop_old_listing(node)
        elif self._is_live and isinstance(node, File):
            grown = self.filesystem.files.growth(node)
            if grown is not None:
                self._growing.add(inode)
                try:
                    await self._poller.in_thread(_extend, inode, *grown)
                finally:
                    self._growing.discard(inode)
        return self._attributes(node)

    def _require_settled(self, inode: int) -> None:
        """Before a change of a file. Raises OSError: ESTALE while the kernel is told how it has grown in its lower.

        What it is told would cover what a program writes. It looks the name up again, which leads to another node.
        """
        if inode in self._growing:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _drop_old_listing(self, directory: Directory) -> None:
        """Have the kernel list a directory again, if a lower has other names than at the last listing.

        The kernel compares the modification time that is shown: the topmost layer's only. No request holds a page of a
        listing locked, so the daemon does not wait for itself.
        """
        with contextlib.suppress(OSError):  # the kernel has forgotten it, or a lower has gone
            if _versions(directory) != directory.listed:
                directory.mark_listed(())
                pyfuse3.invalidate_inode(directory.nodeid)

    @_request
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        self._require_settled(inode)
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            asked_ns=attr.st_ctime_ns if fields.update_ctime else 0,
            written_back=fh is not None and not fields.update_size and not fields.update_atime,
        )
        node = self.filesystem.nodes.node(inode)
        if changes.size == 0:
            incomplete.settle(inode)
        if patches.clears_set_ids(ctx) and changes.mode is None:
            mode = self.filesystem.changing.without_set_ids(node)
            changes = dataclasses.replace(changes, mode=mode)
        attributes = self.filesystem.changing.change_without_copy(node, changes)
        if attributes is None:
            await self._copying.copy_up(
                node, keep_data=changes.size != 0, metadata_only=changes.size is None
            )
            attributes = self.filesystem.changing.change(node, changes)
        entry = self._entry_attributes(attributes)
        self._give_copy(node)
        return entry

    @_request
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        # The kernel checks permissions (default_permissions).
        return True

    @_request
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        self._require_xattr(name)
        return self.filesystem.xattrs.get(self.filesystem.nodes.node(inode), name)

    @_request
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        self._require_xattr()
        # As ext4 does: only root sees the names of trusted.*. The kernel protects their values.
        names = self.filesystem.xattrs.names(
            self.filesystem.nodes.node(inode), trusted=ctx.uid == 0
        )
        return [name for name in names if self.enable_acl or name not in ACLS]

    @_request
    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        self._require_xattr(name)
        node = self.filesystem.nodes.node(inode)
        self.filesystem.xattrs.require_settable(node, name)
        await self._copying.copy_up(node, metadata_only=True)
        cleared = stat.S_ISGID if name == ACCESS_ACL and patches.clears_set_ids(ctx) else 0
        self.filesystem.xattrs.set(node, name, value, cleared=cleared)
        self._give_copy(node)

    @_request
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        self._require_xattr(name)
        node = self.filesystem.nodes.node(inode)
        if self._is_resent() and name not in self.filesystem.xattrs.names(node, trusted=True):
            return
        if self.filesystem.xattrs.has_to_remove(node, name):
            await self._copying.copy_up(node, metadata_only=True)
            self.filesystem.xattrs.remove(node, name)

    def _require_xattr(self, name: bytes = b"") -> None:
        """Raises OSError: ENOSYS, after which the kernel sends no more such requests; EOPNOTSUPP for an ACL."""
        if not self._xattr:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if name in ACLS and not self.enable_acl:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    # Files

    @_request
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        node = self.filesystem.nodes.file(inode)
        keeps = not self._is_live or self.filesystem.lookup.confirm(node)
        if wants_to_write(flags):
            self._require_settled(inode)
        lazily = False
        if wants_to_write(flags) and not self._no_open and self._passthrough is None:
            copy = await self._copying.copy_small(node, keep_data=not flags & os.O_TRUNC)
            if copy >= 0:
                info = self._file_info(
                    node, self.filesystem.files.adopt_copy(node, copy, flags), flags, keeps=keeps
                )
                self._give_copy(node)
                return info
        if wants_to_write(flags):
            lazily = (
                not flags & os.O_TRUNC
                and self._passthrough is None
                and self.filesystem.files.may_copy_later(node)
            )
            if not lazily:
                is_new = node.needs_copy()
                await self._copying.copy_up(node, keep_data=not flags & os.O_TRUNC)
                if is_new and self._passthrough is not None:
                    # Its change time is the copy's from now on.
                    self._drop_attributes(node)
        handle = self.filesystem.files.open(node, flags, lazily=lazily)
        if lazily:
            # A write says only which handle it is of.
            opened = self.filesystem.files.by_handle[handle]
            opened.opener = self.filesystem.copyup.programs.name()
        info = self._file_info(node, handle, flags, keeps=keeps)
        self._give_copy(node)
        return info

    @_request
    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        directory = self.filesystem.nodes.directory(parent_inode)
        before = self._made_before(directory, name)
        if before is not None:
            file = self.filesystem.nodes.file(before.node.nodeid)
            made, handle = before, self.filesystem.files.open(file, os.O_RDWR)
        else:
            made, handle = self.filesystem.creation.create(directory, name, mode, _caller(ctx))
            incomplete.settle(made.node.nodeid)  # of an earlier file with its inode number
        self._changed(directory)
        return self._file_info(made.node, handle, os.O_RDWR), self._entry(*made)

    def _handle(self, number: int) -> int:
        """The handle that a request names; without OPEN it has the nodeid in its place."""
        if not self._no_open:
            return number
        return self.filesystem.files.hold(self.filesystem.nodes.file(number))

    @_request
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return self.filesystem.files.read(self._handle(fh), off, size)

    @_request
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        files = self.filesystem.files
        handle, clears_set_ids, past_cache = patches.split_handle(fh)
        if self._no_open:
            node = self.filesystem.nodes.file(handle)
            await self._copying.copy_up(node)
            handle = files.hold(node, writing=True)
            files.by_handle[handle].begin_write(past_cache=past_cache)
        else:
            to_copy = files.to_copy_first(handle)
            if to_copy is not None:
                asking.set(files.by_handle[handle].opener or 0)
                await self._copying.copy_up(to_copy)
        if clears_set_ids:
            self._clear_set_ids(files.by_handle[handle].node)
        try:
            written = files.write(handle, off, buf, past_cache=past_cache)
        except OSError as error:
            if not past_cache and error.errno is not None:
                incomplete.note(files.by_handle[handle].node.nodeid, error.errno)
            raise
        self._give_copy(files.by_handle[handle].node)
        return written

    def _clear_set_ids(self, node: Node) -> None:
        mode = self.filesystem.changing.without_set_ids(node)
        if mode is not None:
            self.filesystem.changing.change(node, Changes(mode=mode))
            # The reply to a WRITE has no mode, and execve(2) goes by the one that the kernel has.
            self._drop_attributes(node)

    def _drop_attributes(self, node: Node) -> None:
        """Have the kernel ask for the attributes again."""
        with contextlib.suppress(OSError):  # it has forgotten the inode
            pyfuse3.invalidate_inode(node.nodeid, attr_only=True)

    @_request
    async def release(self, fh: FileHandleT) -> None:
        try:
            self.filesystem.files.release(fh)
        finally:
            if self._passthrough is not None:
                self._passthrough.end(fh)

    @_request
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        own = -1 if self.plane is None else self.plane.descriptor(fh)
        if own >= 0:
            try:
                if not self._volatile:
                    await self._poller.in_thread(os.fdatasync if datasync else os.fsync, own)
            finally:
                os.close(own)
            return
        files = self.filesystem.files
        handle = self._handle(fh)
        incomplete.settle(files.by_handle[handle].node.nodeid)
        files.restore_times(handle)
        if files.is_written(handle) and not self._volatile:
            sync = os.fdatasync if datasync else os.fsync
            with files.syncing(handle) as descriptor:
                await self._poller.in_thread(sync, descriptor)

    def _file_info(self, node: Node, handle: int, flags: int, *, keeps: bool = True) -> FileInfo:
        number = 0 if self._passthrough is None else self._passthrough.number(handle)
        if number:
            return pyfuse3.FileInfo(fh=patches.backed_handle(handle, number))
        if self._no_open:
            return pyfuse3.FileInfo(fh=0, keep_cache=True)
        if self.plane is not None:
            handle = self.plane.handle(node.nodeid, handle, writable=wants_to_write(flags))
        return pyfuse3.FileInfo(fh=handle, keep_cache=keeps)

    # Directories

    # The file handle of a directory is its nodeid: the kernel sends no OPENDIR and RELEASEDIR (`patches`).

    @_request
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        filesystem = self.filesystem
        nodeid, is_plain = patches.split_listing(fh)
        directory = filesystem.nodes.directory(nodeid)
        is_planes = False
        if self.plane is not None:
            is_planes = self.plane.note_changes(directory)
        if directory.is_live and directory.merged and start_id == 0:
            directory.mark_listed(_versions(directory))
        listing = filesystem.listings.get(directory, restart=start_id == 0)
        dots = ((b".", directory), (b"..", directory.parent or directory))
        for number in range(start_id, len(dots)):
            name, self_or_above = dots[number]
            attributes = self._attributes(self_or_above)
            if is_plain:
                patches.mark_plain(attributes)
            if not pyfuse3.readdir_reply(token, name, attributes, number + 1):
                # The kernel counts no lookup for these two.
                return
        first = listing.index_after(start_id - len(dots))
        if first == len(listing.entries) and start_id >= len(dots):
            filesystem.listings.end(directory, listing)
        # One object for all entries, as there may be many.
        name_only = self._plain_entry if is_plain else self._name_only_entry
        reply, above = pyfuse3.readdir_reply, len(dots)
        inode_numbers: Iterable[int] = itertools.repeat(0)
        if (
            is_planes
            or (is_plain and not listing.outdated)
            or self._are_names_enough(directory, listing, start_id)
        ):
            inode_numbers = filesystem.entries.nodeids(directory, listing.entries_from(first))
        for entry, position, inode_number in zip(
            listing.entries_from(first), listing.positions_from(first), inode_numbers, strict=False
        ):
            name, kind, layer_dir, _ = entry
            node: Node | None = None
            if inode_number and is_planes and listing.outdated:
                now = _kind(layer_dir, name)
                if not now:
                    continue
                if now != kind:
                    inode_number = 0
            if inode_number:
                attributes = name_only
                attributes.st_ino = inode_number
                attributes.st_mode = kind
            else:
                found = self._look_up_entry(directory, entry)
                if found is None:
                    continue
                node, attributes = found
                if is_plain:
                    patches.mark_plain(attributes)
            if not reply(token, name, attributes, position + above):
                if node is not None:
                    filesystem.nodes.evict_if_unused(node)
                return
            if node is not None and is_plain:
                filesystem.nodes.evict_if_unused(node)
            elif node is not None:
                self._count_lookup(node)

    def _are_names_enough(self, directory: Directory, listing: Listing, start: int) -> bool:
        """Whether to list names without attributes from here on, which takes less time, and no memory for nodes.

        A program that looks up most of the names that it has read gets the rest with attributes.
        """
        if len(listing.entries) <= _WIDE_ENTRIES or listing.outdated:
            return False
        return 2 * len(directory.children) <= max(start, _WIDE_ENTRIES)

    def _look_up_entry(
        self, directory: Directory, entry: Entry
    ) -> tuple[Node | None, EntryAttributes] | None:
        """The node of an entry of a listing, and the reply for it; None if the entry has gone since."""
        try:
            found = self.filesystem.entries.look_up(directory, entry)
            return None if found is None else (found.node, self._attributes(*found))
        except Exception as error:
            # The name exists: the listing has it, and a lookup of it reports the error.
            if not isinstance(error, OSError):
                log.exception("an entry of a listing failed")
            attributes = patches.mark_name_only(pyfuse3.EntryAttributes())
            attributes.st_mode = entry[1]
            return None, attributes

    def _changed(self, *directories: Directory) -> None:
        """After a change of names: most programs that make one make more, so the plane may. Syncs as `_sync_names`."""
        self._sync_names(*directories)
        if self.plane is not None:
            for directory in directories:
                self.plane.offer_changes(directory)

    def _give(self, node: Node | None) -> None:
        """At the end of a request: give a node to the plane, if that may have it."""
        if self.plane is not None and node is not None and self._under_way == 1:
            self.plane.give(node)

    def _give_copy(self, node: Node) -> None:
        """As `_give`, after a change of a file: most programs that copy one up copy more, in the same directory."""
        if self.plane is not None and isinstance(node, File) and node.is_plain_upper:
            self.plane.offer_changes(node.links[0][0])
            self._give(node)

    def _sync_names(self, *directories: Directory) -> None:
        """With `dirsync`, sync a change of names before the reply to it. All other requests wait."""
        if not self._dirsync:
            return
        for directory in set(directories):
            fd = self.filesystem.tree.open_upper(directory)
            if fd is not None:
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    @_request
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        if self._volatile:
            return
        fd = self.filesystem.tree.open_upper(self.filesystem.nodes.directory(fh))
        if fd is None:
            return
        try:
            await self._poller.in_thread(os.fsync, fd)
        finally:
            os.close(fd)

    # The file system

    @_request
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        below = self.filesystem.tree.statfs()
        data = pyfuse3.StatvfsData()
        for field in _STATVFS_FIELDS:
            setattr(data, field, getattr(below, field))
        return data

    # Replies

    def _entry(self, node: Node, st: os.stat_result | None = None) -> EntryAttributes:
        """A node's attributes for a reply that the kernel counts as one lookup. `st`: as in `Tree.attributes`."""
        entry = self._attributes(node, st)
        self._count_lookup(node)
        return entry

    def _count_lookup(self, node: Node) -> None:
        if self.plane is None:
            node.count_lookup()
        else:
            self.plane.count_lookup(node)

    def _attributes(self, node: Node, st: os.stat_result | None = None) -> EntryAttributes:
        entry = self._entry_attributes(self.filesystem.tree.attributes(node, st))
        if self._is_live:
            self._limit_timeouts(entry, node)
        return entry

    def _limit_timeouts(self, entry: EntryAttributes, node: Node) -> None:
        """Let the kernel ask again for what others may change: all but names in the upper."""
        if isinstance(node, Directory):
            if node.is_live:
                entry.attr_timeout = self._live_timeout
            above = node.parent if node.upper is None else None
        else:
            above = node.links[0][0] if node.links and not node.has_upper else None
            if node.told is not None and not node.has_upper:
                entry.attr_timeout = self._live_timeout
        if above is not None and above.is_live:
            entry.entry_timeout = min(entry.entry_timeout, self._live_timeout)

    def _timeout_in(self, directory: Directory) -> float:
        """How long the kernel may take it for sure that a name is missing in a directory."""
        return self._live_timeout if directory.is_live else self._timeout

    def _entry_attributes(self, attributes: Attributes) -> EntryAttributes:
        st = attributes.stat
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = attributes.nodeid
        entry.generation = attributes.generation
        is_kept = self.trace is None or stat.S_ISDIR(attributes.mode)
        entry.entry_timeout = self._timeout if is_kept else KEPT_SECONDS
        entry.attr_timeout = self._timeout
        entry.st_mode = attributes.mode
        entry.st_nlink = attributes.link_count
        if self._static_nlink and attributes.link_count and stat.S_ISDIR(attributes.mode):
            entry.st_nlink = 1
        entry.st_uid = attributes.uid
        entry.st_gid = attributes.gid
        entry.st_rdev = st.st_rdev
        if attributes.inode_number != attributes.nodeid and not entry.st_rdev:
            entry.st_rdev = attributes.inode_number  # see `patches`
        entry.st_size = st.st_size
        entry.st_blksize = st.st_blksize
        entry.st_blocks = attributes.blocks
        entry.st_atime_ns = st.st_atime_ns
        entry.st_mtime_ns = st.st_mtime_ns
        entry.st_ctime_ns = attributes.changed_ns
        return entry


_STATVFS_FIELDS: Final = (
    "f_bsize",
    "f_frsize",
    "f_blocks",
    "f_bfree",
    "f_bavail",
    "f_files",
    "f_ffree",
    "f_favail",
    "f_namemax",
)


def _extend(nodeid: int, offset: int, last: bytes) -> None:
    """Have the kernel extend a file whose last byte is at `offset`: it takes no size from a reply.

    It may wait for a READ that is under way.
    """
    with contextlib.suppress(OSError):  # it has forgotten the file
        # The page with the end as it was holds zeros after that.
        pyfuse3.invalidate_inode(nodeid)
        pyfuse3.notify_store(nodeid, offset, last)


def _versions(directory: Directory) -> tuple[Version, ...]:
    """The states of the lowers in a directory that others may change. Raises OSError."""
    return tuple(Version.of(one.stat()) for one in directory.lowers if one.layer.live)


def _kind(layer_dir: LayerDir, name: bytes) -> int:
    """The S_IFMT bits of a name in a layer; 0 if there is none."""
    st = attributes.stat_or_none(layer_dir.fd(), name)
    return 0 if st is None else stat.S_IFMT(st.st_mode)


def _caller(ctx: Any) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.umask)
