"""FUSE requests, translated: pyfuse3's types in, calls of `overlaykit.overlay`, pyfuse3's types out.

What the kernel may cache: everything, for ever. Names, missing names, attributes and data stay valid because while it
is mounted we alone change the layers; a live change of them must be told to the kernel (pyfuse3.invalidate_entry,
invalidate_inode). Size and times of a file are the kernel's own while it has dirty pages (the writeback cache).

No merge logic lives here. An `OSError` becomes a `FUSEError` in one place, `_request`.
"""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
import stat
from collections import Counter
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import pyfuse3
import trio

from overlaykit import _native
from overlaykit.overlay.attributes import Caller, Changes
from overlaykit.overlay.creation import check_name
from overlaykit.overlay.files import wants_to_write
from overlaykit.overlay.markers import ACCESS_ACL, ACLS
from overlaykit.overlay.nodes import File

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

    from overlaykit.fuse.spec import MountOptions
    from overlaykit.fuse.waiting import Waiting
    from overlaykit.overlay.attributes import Attributes
    from overlaykit.overlay.filecopy import Copy
    from overlaykit.overlay.filesystem import Filesystem
    from overlaykit.overlay.listing import Listing
    from overlaykit.overlay.merge import Entry
    from overlaykit.overlay.nodes import Directory, Node

log: Final = logging.getLogger(__name__)

FOREVER: Final = 1e9
"""Seconds that the kernel may cache names and attributes: longer than any mount lives."""

_QUICK: Final = 1 << 20
"""Bytes that are copied up at once; more, and what is synced, goes to a thread, and holds up no other file."""

_WIDE: Final = 256
"""Names in a directory. Of a wider one, a program that lists it mostly wants no more than the names."""

P = ParamSpec("P")
R = TypeVar("R")


def _request(
    handler: Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]]:
    """Count the request, translate its errors, and tidy up after it."""
    name = handler.__name__

    @functools.wraps(handler)
    async def answer(self: Operations, *args: P.args, **kwargs: P.kwargs) -> R:
        self.requests[name] += 1
        try:
            return await handler(self, *args, **kwargs)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            log.exception("%s failed", name)
            raise pyfuse3.FUSEError(errno.EIO) from error
        finally:
            self.filesystem.between_operations()

    return answer  # type: ignore[return-value]  # typeshed calls it a _Wrapped, mypy wants a function


class Operations(pyfuse3.Operations):
    """The requests of one mount.

    Attributes:
      filesystem: what answers them.
      requests: how many of which kind have come; they cost what they cost, so this is what to bring down.
      started: set once the kernel's first request (INIT) was answered.

    Invariants: a node whose entry was answered has one lookup more; a file whose number is in `_copying` is on its way
    up, and only that task writes to it or makes it another one.
    """

    supports_dot_lookup = False
    enable_writeback_cache = True

    def __init__(self, filesystem: Filesystem, options: MountOptions, waiting: Waiting) -> None:
        super().__init__()
        self._waiting = waiting
        # A list changes the mode, which with `xattr_permissions` is not the real file's.
        self.enable_acl = options.acl and options.xattr and not options.xattr_permissions
        self._xattr = options.xattr
        self.filesystem = filesystem
        self.requests: Counter[str] = Counter()
        self.started = trio.Event()
        self._volatile = options.volatile
        self._dirsync = options.dirsync and not options.volatile
        self._static_nlink = options.static_nlink
        self._timeout = FOREVER if options.timeout is None else min(options.timeout, FOREVER)
        self._copying: dict[int, trio.Event] = {}
        self._copies = trio.Semaphore(filesystem.shares.copies)  # each has two descriptors open
        # An entry of a listing whose node the kernel is to ask for itself; number 0: of an inode that is not known.
        self._entry_without_node = pyfuse3.EntryAttributes()
        self._entry_without_node.generation = _native.NAME_ONLY

    def init(self) -> None:
        self.started.set()

    # Names

    @_request
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        filesystem = self.filesystem
        found = filesystem.lookup.find(filesystem.nodes.directory(parent_inode), name)
        if found is None:
            missing = pyfuse3.EntryAttributes()
            missing.st_ino = 0  # a name that may be remembered as missing
            missing.entry_timeout = self._timeout
            return missing
        return self._entry(*found)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        self.requests["forget"] += 1
        for number, count in inode_list:
            self.filesystem.nodes.forget(number, count)

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
        node = self.filesystem.creation.mknod(directory, name, mode, rdev, _caller(ctx))
        self._sync_names(directory)
        return self._entry(node)

    @_request
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        directory = self.filesystem.nodes.directory(parent_inode)
        node = self.filesystem.creation.mkdir(directory, name, mode, _caller(ctx))
        self._sync_names(directory)
        return self._entry(node)

    @_request
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        directory = self.filesystem.nodes.directory(parent_inode)
        node = self.filesystem.creation.symlink(directory, name, target, _caller(ctx))
        self._sync_names(directory)
        return self._entry(node)

    @_request
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        node = self.filesystem.nodes.file(inode)
        check_name(new_name)
        await self._copy_up(node)
        directory = self.filesystem.nodes.directory(new_parent_inode)
        self.filesystem.creation.link(node, directory, new_name)
        self._sync_names(directory)
        return self._entry(node)

    @_request
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        directory = self.filesystem.nodes.directory(parent_inode)
        await self._copy_up(self.filesystem.removal.copied_to_unlink(directory, name))
        self.filesystem.removal.unlink(directory, name)
        self._sync_names(directory)

    @_request
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        directory = self.filesystem.nodes.directory(parent_inode)
        self.filesystem.removal.rmdir(directory, name)
        self._sync_names(directory)

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
        await self._copy_up(filesystem.lookup.require(old, name_old))
        if flags & pyfuse3.RENAME_EXCHANGE:
            await self._copy_up(filesystem.lookup.require(new, name_new))
        else:
            await self._copy_up(filesystem.removal.copied_to_unlink(new, name_new))
        filesystem.renaming.rename(old, name_old, new, name_new, flags)
        self._sync_names(old, new)

    @_request
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return self.filesystem.tree.readlink(self.filesystem.nodes.node(inode))

    # Attributes

    @_request
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(self.filesystem.nodes.node(inode))

    @_request
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
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
        await self._copy_up(
            self.filesystem.changing.copied_to_change(node, changes),
            keep_data=changes.size != 0,
            metadata_only=changes.size is None,
        )
        return self._entry_attributes(self.filesystem.changing.change(node, changes))

    @_request
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        return True  # the kernel decides (default_permissions)

    @_request
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        self._require_xattr(name)
        return self.filesystem.xattrs.get(self.filesystem.nodes.node(inode), name)

    @_request
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        self._require_xattr()
        # As ext4 does: these names are for root alone (the kernel guards their values itself).
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
        await self._copy_up(node, metadata_only=True)
        # An access ACL may clear the set-group-ID bit (native/session.c).
        cleared = ctx.umask if name == ACCESS_ACL else 0
        self.filesystem.xattrs.set(node, name, value, cleared=cleared)

    @_request
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        self._require_xattr(name)
        node = self.filesystem.nodes.node(inode)
        if self.filesystem.xattrs.has_to_remove(node, name):
            await self._copy_up(node, metadata_only=True)
            self.filesystem.xattrs.remove(node, name)

    def _require_xattr(self, name: bytes = b"") -> None:
        """Raises OSError: ENOSYS, which the kernel takes for an answer once and for all; EOPNOTSUPP for an ACL."""
        if not self._xattr:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if name in ACLS and not self.enable_acl:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    # Files

    @_request
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        node = self.filesystem.nodes.file(inode)
        lazily = False
        if wants_to_write(flags):
            lazily = not flags & os.O_TRUNC and self.filesystem.files.may_copy_later(node)
            if not lazily:
                await self._copy_up(node, keep_data=not flags & os.O_TRUNC)
        return _file_info(self.filesystem.files.open(node, flags, lazily=lazily))

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
        node, handle = self.filesystem.creation.create(directory, name, mode, _caller(ctx))
        self._sync_names(directory)
        return _file_info(handle), self._entry(node)

    @_request
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return self.filesystem.files.read(fh, off, size)

    @_request
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        await self._copy_up(self.filesystem.files.to_copy_first(fh))
        return self.filesystem.files.write(fh, off, buf)

    @_request
    async def release(self, fh: FileHandleT) -> None:
        self.filesystem.files.release(fh)

    @_request
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        files = self.filesystem.files
        files.settle_times(fh)
        if files.is_written(fh) and not self._volatile:
            sync = os.fdatasync if datasync else os.fsync
            with files.syncing(fh) as descriptor:
                await self._waiting.in_thread(sync, descriptor)

    # Directories

    # The handle of an open directory is its node's number: the kernel opens and closes directories without asking
    # (`_native.name_directories`), and where that cannot be had, the number is what opening answers.

    @_request
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return inode

    @_request
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        filesystem = self.filesystem
        directory = filesystem.nodes.directory(fh)
        listing = filesystem.listings.get(directory, restart=start_id == 0)
        dots = ((b".", directory), (b"..", directory.parent or directory))
        for number in range(start_id, len(dots)):
            name, self_or_above = dots[number]
            if not pyfuse3.readdir_reply(token, name, self._attributes(self_or_above), number + 1):
                return  # the kernel counts no lookup for these two
        first = listing.index_after(start_id - len(dots))
        if first == len(listing.entries) and start_id >= len(dots):
            filesystem.listings.end(directory, listing)
        name_only = self._entry_without_node  # the same for each: there are many
        reply, above = pyfuse3.readdir_reply, len(dots)
        numbers: Iterable[int] = itertools.repeat(0)
        if self._are_names_enough(directory, listing, start_id):
            numbers = filesystem.entries.nodeids(directory, listing.entries_from(first))
        for entry, place, number in zip(
            listing.entries_from(first), listing.positions_from(first), numbers, strict=False
        ):
            name, kind, _, _ = entry
            node: Node | None = None
            if number:
                answer = name_only
                answer.st_ino = number
                answer.st_mode = kind
            else:
                found = self._look_up_entry(directory, entry)
                if found is None:
                    continue
                node, answer = found
            if not reply(token, name, answer, place + above):
                if node is not None:
                    filesystem.nodes.evict_if_unused(node)
                return
            if node is not None:
                node.count_lookup()

    def _are_names_enough(self, directory: Directory, listing: Listing, start: int) -> bool:
        """Whether to list names by themselves from here on, so that they cost little, and no memory here or there.

        A program that looks up most names as it reads on gets the rest with attributes.
        """
        if len(listing.entries) <= _WIDE or listing.outdated or not _native.adapts_session():
            return False
        return 2 * len(directory.children) <= max(start, _WIDE)

    def _look_up_entry(
        self, directory: Directory, entry: Entry
    ) -> tuple[Node | None, EntryAttributes] | None:
        """The node of an entry of a listing and what to say of it; None if it has gone since."""
        try:
            found = self.filesystem.entries.look_up(directory, entry)
            return None if found is None else (found.node, self._attributes(*found))
        except Exception as error:  # the name is there; a lookup of it reports the error
            if not isinstance(error, OSError):
                log.exception("an entry of a listing failed")
            answer = self._entry_without_node
            answer.st_ino = 0
            answer.st_mode = entry[1]
            return None, answer

    @_request
    async def releasedir(self, fh: FileHandleT) -> None:
        pass

    def _sync_names(self, *directories: Directory) -> None:
        """With `dirsync`, see a change of names to the disk before it is answered, whatever has to wait for that."""
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
            await self._waiting.in_thread(os.fsync, fd)
        finally:
            os.close(fd)

    # The whole

    @_request
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        below = self.filesystem.tree.statfs()
        data = pyfuse3.StatvfsData()
        for field in _STATVFS_FIELDS:
            setattr(data, field, getattr(below, field))
        return data

    # Answers

    def _entry(self, node: Node, st: os.stat_result | None = None) -> EntryAttributes:
        """A node's attributes for an answer that the kernel counts as one lookup. `st`: as in `Tree.attributes`."""
        entry = self._attributes(node, st)
        node.count_lookup()
        return entry

    def _attributes(self, node: Node, st: os.stat_result | None = None) -> EntryAttributes:
        return self._entry_attributes(self.filesystem.tree.attributes(node, st))

    def _entry_attributes(self, attributes: Attributes) -> EntryAttributes:
        st = attributes.stat
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = attributes.number
        entry.generation = attributes.generation
        entry.entry_timeout = self._timeout
        entry.attr_timeout = self._timeout
        entry.st_mode = attributes.mode
        entry.st_nlink = attributes.link_count
        if self._static_nlink and attributes.link_count and stat.S_ISDIR(attributes.mode):
            entry.st_nlink = 1
        entry.st_uid = attributes.uid
        entry.st_gid = attributes.gid
        entry.st_rdev = st.st_rdev
        entry.st_size = st.st_size
        entry.st_blksize = st.st_blksize
        entry.st_blocks = st.st_blocks
        entry.st_atime_ns = st.st_atime_ns
        entry.st_mtime_ns = st.st_mtime_ns
        entry.st_ctime_ns = attributes.changed_ns
        return entry

    # Copy-up

    async def _copy_up(
        self, node: Node | None, *, keep_data: bool = True, metadata_only: bool = False
    ) -> None:
        """Give a file its upper before it is changed. One task copies, the others that want it wait for that.

        `metadata_only`: of a file without a name only what is not data, which others cannot see any more.
        """
        if not isinstance(node, File):
            return
        if not node.needs_copy(metadata_only=metadata_only) and node.nodeid not in self._copying:
            return
        try:
            self._copies.acquire_nowait()
        except trio.WouldBlock:
            await self._copies.acquire()
        try:
            while (under_way := self._copying.get(node.nodeid)) is not None:
                await under_way.wait()
            copy = self.filesystem.copyup.begin(
                node, keep_data=keep_data, metadata_only=metadata_only
            )
            if copy is not None:
                await self._carry_out(copy, node)
        finally:
            self._copies.release()

    async def _carry_out(self, copy: Copy, node: File) -> None:
        try:
            if copy.size == 0 or (copy.size <= _QUICK and self._volatile):
                copy.transfer()
            else:
                done = self._copying[node.nodeid] = trio.Event()
                try:
                    await self._waiting.in_thread(copy.transfer)
                finally:
                    del self._copying[node.nodeid]
                    done.set()
            copy.finish()
        finally:
            copy.close()


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


def _caller(ctx: Any) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.umask)


def _file_info(handle: int) -> FileInfo:
    return pyfuse3.FileInfo(fh=handle, keep_cache=True)
