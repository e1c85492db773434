"""Changes of attributes: owner, mode, size and times."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from overlaykit import _native, attributes
from overlaykit.overlay import overrides
from overlaykit.overlay.failure import fail
from overlaykit.overlay.nodes import Directory, File
from overlaykit.overlay.operation import operation
from overlaykit.overlay.overrides import Override

if TYPE_CHECKING:
    from overlaykit.overlay.attributes import Attributes, Changes
    from overlaykit.overlay.files import Files
    from overlaykit.overlay.location import Location
    from overlaykit.overlay.nodes import Node
    from overlaykit.overlay.tree import Tree


class Changing:
    """Changes attributes of nodes, in the upper unless nothing would be lost."""

    def __init__(self, tree: Tree, files: Files) -> None:
        self.modes = tree.modes
        self._tree = tree
        self._files = files

    @operation
    def change_without_copy(self, node: Node, changes: Changes) -> Attributes | None:
        """Make changes for which a lower's inode may stay as it is; None if they may take a copy-up."""
        if not isinstance(node, File) or node.has_upper:
            return None
        kept = self._kept_as_is(node, changes)
        return None if kept is None else self._changed(node, changes, kept)

    @operation
    def change(self, node: Node, changes: Changes) -> Attributes:
        """Copy up if the changes take that, then change owner, mode, size and times. Returns: the new attributes.

        Raises OSError: EROFS, EPERM and the like.
        """
        kept = self._kept_as_is(node, changes)
        if kept is None:
            self._change_inode(node, changes)
        return self._changed(node, changes, kept)

    def _changed(self, node: Node, changes: Changes, kept: os.stat_result | None) -> Attributes:
        """The attributes after changes. `kept`: of an inode that stays as it is."""
        if changes.asked_ns:
            self._tree.table.change_times.record(node.nodeid, changes.asked_ns)
        return self._tree.attributes(node, kept)

    @operation
    def without_set_ids(self, node: Node) -> int | None:
        """The permission bits after a change by another user (FUSE_HANDLE_KILLPRIV_V2); None if they stay as they are.

        The set-group-ID bit stays on a file that its group cannot execute.
        """
        mode = stat.S_IMODE(self._tree.attributes(node).mode)
        cleared = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
        return mode & ~cleared if mode & cleared else None

    def _kept_as_is(self, node: Node, changes: Changes) -> os.stat_result | None:
        """The inode's stat, if the inode may stay as it is; None if the upper's must be changed.

        The kernel keeps the modification and change times of regular files itself while it knows them, and sends them
        after each change of their names or attributes (fs/fuse/dir.c: fuse_update_ctime_in_cache). So nothing is lost
        of a file without a name, nor of a file in a lower that has the requested values.
        """
        if isinstance(node, Directory) or node.kind != stat.S_IFREG:
            return None
        if node.has_upper and (node.links or not changes.is_modification_time):
            return None
        now = self._tree.attributes(node)
        if now.link_count == 0 and changes.is_modification_time:
            return now.stat
        return now.stat if not node.has_upper and changes.are_in(now) else None

    def _change_inode(self, node: Node, changes: Changes) -> None:
        tree = self._tree
        if isinstance(node, File):
            metadata_only = changes.size is None
            if node.needs_copy(metadata_only=metadata_only):
                tree.copyup.file(node, keep_data=changes.size != 0, metadata_only=metadata_only)
        else:
            tree.copy_up(node)
        location = tree.location(node)
        # Without a change time it comes before a write that clears a capability, and root keeps the set-ID bits.
        if changes.is_empty and (changes.asked_ns or node.kind != stat.S_IFREG):
            location.chown(-1, -1)
        if (changes.mode, changes.uid, changes.gid) != (None, None, None):
            self._files.wake(node)
        self._change_permissions(node, location, changes)
        if changes.size is not None:
            if isinstance(node, Directory):
                fail(errno.EISDIR)
            self._files.resize(node, changes.size)
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            modified = changes.mtime_ns
            opened = None if modified is None else self._files.keeping_times(node)
            if opened is not None:
                if changes.written_back and opened.is_outdated(changes.asked_ns):
                    modified = None
                else:
                    opened.set_modified(changes.asked_ns)
            if changes.asked_ns and _are_set(location.stat(), changes, modified):
                return
            attributes.set_times(
                location.dirfd,
                location.name,
                changes.atime_ns,
                modified,
                0 if location.follow else _native.AT_SYMLINK_NOFOLLOW,
            )

    def _change_permissions(self, node: Node, location: Location, changes: Changes) -> None:
        tree = self._tree
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


def _are_set(st: os.stat_result, changes: Changes, modified: int | None) -> bool:
    """Whether the disk has the times that the kernel writes back: setting them again would move its change time."""
    has_them = changes.atime_ns in (None, st.st_atime_ns) and modified == st.st_mtime_ns
    return has_them and changes.asked_ns <= st.st_ctime_ns
