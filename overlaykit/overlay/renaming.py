"""rename, with NOREPLACE and EXCHANGE, of files and of directories with lower parts.

The move is one renameat2(2), which leaves the whiteout for the old name in the same step if the disk can do that (see
`whiteouts`). A directory that shows lowers is not copied: a redirect says where they hold its contents. The markers set
before the move mean the same at the old name, so a crash in between leaves the old tree.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from overlaykit import _native, attributes, inodes
from overlaykit.overlay.creation import check_name
from overlaykit.overlay.failure import fail
from overlaykit.overlay.faults import reach
from overlaykit.overlay.markers import OVERLAY_PREFIXES
from overlaykit.overlay.nodes import Directory
from overlaykit.overlay.operation import operation
from overlaykit.overlay.removal import kept_directory
from overlaykit.overlay.tree import TOO_LONG
from overlaykit.overlay.whiteouts import Move

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.links import Links
    from overlaykit.overlay.lookup import Lookup
    from overlaykit.overlay.nodes import Node
    from overlaykit.overlay.removal import Removal
    from overlaykit.overlay.tree import Tree


class Renaming:
    """Moves names in the merged tree. `redirects`: directories with lower parts can move; else EXDEV."""

    def __init__(
        self, tree: Tree, lookup: Lookup, links: Links, removal: Removal, *, redirects: bool
    ) -> None:
        self.modes = tree.modes
        self._tree = tree
        self._lookup = lookup
        self._links = links
        self._removal = removal
        self._redirects = redirects

    @operation
    def rename(
        self,
        old_directory: Directory,
        old_name: bytes,
        new_directory: Directory,
        new_name: bytes,
        flags: int = 0,
        *,
        is_free: bool = False,
    ) -> None:
        """rename(2). `is_free`: the new name was just looked up, and nothing has it.

        Raises OSError: ENOENT, EEXIST, ENOTEMPTY, EISDIR, ENOTDIR, EXDEV, EROFS, EINVAL (other flags).
        """
        if flags not in (0, _native.RENAME_NOREPLACE, _native.RENAME_EXCHANGE):
            fail(errno.EINVAL)
        check_name(new_name)
        tree = self._tree
        node = self._lookup.require(old_directory, old_name)
        found = None if is_free else self._lookup.find(new_directory, new_name)
        target = None if found is None else found.node
        old_dir = tree.writable_directory(old_directory, old_name)
        new_dir = tree.writable_directory(new_directory, new_name)
        if flags == _native.RENAME_EXCHANGE:
            if target is None:
                fail(errno.ENOENT, new_name)
            if target is node:
                return
            self._prepare(node, old_directory, old_name, new_directory)
            self._prepare(target, new_directory, new_name, old_directory)
            self._mark_impure(node, new_dir)
            self._mark_impure(target, old_dir)
            reach("rename.prepared")
            moved = os.stat(old_name, dir_fd=old_dir.fd(), follow_symlinks=False).st_ino
            with self._noted(old_directory, old_name, new_directory, new_name, exchanged=moved):
                _native.renameat2(old_dir.fd(), old_name, new_dir.fd(), new_name, flags)
                reach("rename.moved")
                tree.table.exchange(node, old_directory, old_name, target, new_directory, new_name)
            return
        if target is node:
            return  # two names of one file (rename(3p))
        if target is not None:
            if flags == _native.RENAME_NOREPLACE:
                fail(errno.EEXIST, new_name)
            self._require_replaceable(node, target, new_directory, new_name)
        self._prepare(node, old_directory, old_name, new_directory)
        self._replace(node, old_directory, old_name, target, new_directory, new_name)

    def rename_below(
        self,
        old_directory: Directory,
        old_name: bytes,
        new_directory: Directory,
        new_name: bytes,
        *,
        is_free: bool,
    ) -> bool:
        """Rename a file that a lower has too, and that has no node: it was just copied up.

        `is_free`: as of `rename`. The caller notes for a later daemon that the rename has ended (`Plane.end_rename`).
        Returns: false if something has the new name, and nothing is done. Raises OSError, with nothing renamed.
        """
        tree = self._tree
        if (
            new_directory.upper is None
            or new_directory.orphaned
            or new_name in new_directory.children
            or not (is_free or tree.merge.find(new_directory, new_name) is None)
        ):
            return False
        old_dir = tree.writable_directory(old_directory, old_name)
        new_dir = tree.writable_directory(new_directory, new_name)
        for directory in (old_directory, new_directory):
            directory.mark_changed()  # a listing that was begun now
        tree.copyup.mark_impure(new_dir)
        tree.keep_original(new_directory, new_name)
        plane = tree.table.kept_plane
        if plane is not None:
            plane.begin_rename(old_directory.nodeid, old_name, new_directory.nodeid, new_name, 0)
        reach("rename.prepared")
        tree.whiteouts.move(
            Move(
                old_dir,
                old_name,
                new_dir,
                new_name,
                needs_whiteout=True,
                is_directory=False,
                target=None,
            )
        )
        reach("rename.done")
        return True

    def _replace(
        self,
        node: Node,
        old_directory: Directory,
        old_name: bytes,
        target: Node | None,
        new_directory: Directory,
        new_name: bytes,
    ) -> None:
        tree = self._tree
        old_dir = tree.writable_directory(old_directory, old_name)
        new_dir = tree.writable_directory(new_directory, new_name)
        with (
            kept_directory(target, tree) as kept,
            self._noted(old_directory, old_name, new_directory, new_name),
        ):
            count = None
            if isinstance(target, Directory):
                if target.upper is not None and tree.whiteouts.form != "aufs":
                    self._clear(new_dir, new_name)
            elif target is not None:
                count = self._links.prepare_unlink(target, new_directory, new_name)
                self._removal.keep_content(target, count)
                tree.table.note_removal(target, new_directory, new_name)
            move = Move(
                old_dir,
                old_name,
                new_dir,
                new_name,
                needs_whiteout=tree.needs_whiteout(old_directory, old_name),
                is_directory=isinstance(node, Directory),
                target=None if target is None else target.kind,
            )
            self._mark_impure(node, new_dir)
            if not move.is_directory:
                tree.keep_original(new_directory, new_name)
            reach("rename.prepared")
            tree.whiteouts.move(move)
            reach("rename.done")
            if isinstance(target, Directory):
                tree.table.orphan(target, kept)
            elif target is not None:
                tree.table.unlink(target, new_directory, new_name)
                self._removal.forget_link(target, count)
            tree.table.move(node, old_directory, old_name, new_directory, new_name)

    @operation
    def is_done(
        self,
        old_directory: Directory,
        old_name: bytes,
        new_directory: Directory,
        new_name: bytes,
        exchanged: int,
    ) -> bool:
        """Whether a rename of which a daemon was killed was carried out. The arguments are those of `begin_rename`."""
        if not exchanged:
            return self._tree.merge.find(old_directory, old_name) is None
        upper = new_directory.upper
        st = None if upper is None else attributes.stat_or_none(upper.fd(), new_name)
        return st is not None and st.st_ino == exchanged

    @contextlib.contextmanager
    def _noted(
        self,
        old_directory: Directory,
        old_name: bytes,
        new_directory: Directory,
        new_name: bytes,
        *,
        exchanged: int = 0,
    ) -> Iterator[None]:
        """Note the rename for a daemon that takes over, until it is carried out on the disk and in the table."""
        plane = self._tree.table.kept_plane
        if plane is None:
            yield
            return
        plane.begin_rename(
            old_directory.nodeid, old_name, new_directory.nodeid, new_name, exchanged
        )
        try:
            yield
        finally:
            plane.end_rename()

    def _require_replaceable(
        self, node: Node, target: Node, new_directory: Directory, name: bytes
    ) -> None:
        if isinstance(target, Directory):
            if not isinstance(node, Directory):
                fail(errno.EISDIR, name)
            self._require_movable(node, name, new_directory)
            self._removal.require_empty(target)
        elif isinstance(node, Directory):
            fail(errno.ENOTDIR, name)

    def _require_movable(self, node: Directory, name: bytes, new_directory: Directory) -> None:
        if node.lowers and (not self._redirects or _are_apart(node, new_directory)):
            fail(errno.EXDEV, name)

    def _prepare(
        self, node: Node, directory: Directory, name: bytes, new_directory: Directory
    ) -> None:
        """Give the node an entry in the upper that means the same under any name."""
        tree = self._tree
        if not isinstance(node, Directory):
            tree.copy_up(node)
            tree.keep_data_in_reach(node, directory, name)
            # The count is stored relative to the upper's: the new name does not lead to the lower's.
            self._links.prepare_move(node, directory, name)
            return
        self._require_movable(node, name, new_directory)
        layer_dir = tree.writable_directory(node)
        if node.lowers:
            target = self._redirect(node, same_directory=directory is new_directory)
            if target != node.redirect:
                try:
                    tree.markers.set_redirect(layer_dir.proc_path(), target)
                except OSError as error:
                    if error.errno in TOO_LONG:
                        fail(errno.EXDEV, name)
                    raise
                node.mark_redirected(target)
        elif new_directory.lowers:
            tree.whiteouts.make_opaque(layer_dir)

    def _mark_impure(self, node: Node, layer_dir: LayerDir) -> None:
        if bool(node.lowers) if isinstance(node, Directory) else node.has_origin:
            self._tree.copyup.mark_impure(layer_dir)

    def _redirect(self, node: Directory, *, same_directory: bool) -> bytes:
        """The redirect to where the lowers hold the node's contents: a name beside it, or a path from their roots."""
        if node.redirect is not None and (same_directory or node.redirect.startswith(b"/")):
            return node.redirect
        return node.name if same_directory else node.path_in_lowers()

    def _clear(self, layer_dir: LayerDir, name: bytes) -> None:
        """Exchange an empty directory that may hold whiteouts for an opaque one without any."""
        tree = self._tree
        work = tree.work
        fresh = work.new_name()
        source = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=layer_dir.fd())
        try:
            os.mkdir(fresh, 0o700, dir_fd=work.layer_dir.fd())
            target = os.open(
                fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=work.layer_dir.fd()
            )
            try:
                tree.markers.set_opaque(b"/proc/self/fd/%d" % target)
                inodes.copy(source, target, data=False, skip_xattrs=OVERLAY_PREFIXES)
                os.chmod(target, stat.S_IMODE(work.modes.shown(os.fstat(source))))
            finally:
                os.close(target)
            work.exchange(fresh, layer_dir, name)
            reach("rename.cleared")
        finally:
            os.close(source)
            work.remove(fresh)


def _are_apart(node: Directory, new_directory: Directory) -> bool:
    """Whether a layer has the two directories on different file systems: rename(2) fails there, too."""
    above = new_directory
    while not above.lowers and above.parent is not None:
        above = above.parent
    lower = node.lowers[0]
    device = lower.stat().st_dev
    return any(one.layer is lower.layer and one.stat().st_dev != device for one in above.lowers)
