"""Creation of files, directories, symlinks, devices, and further hard links.

If the upper has no entry of the name and the owner is the daemon's own, the file is made in place. Otherwise it is made
in the work directory and renamed, so that it appears whole. The disk's file system gives it what it inherits (a default
ACL, a set-group-ID directory's group): in the work directory from a stand-in for its parent.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from overlaykit import attributes
from overlaykit.beneath import NEW_FILE
from overlaykit.overlay import overrides
from overlaykit.overlay.failure import fail
from overlaykit.overlay.faults import reach
from overlaykit.overlay.files import read_quietly
from overlaykit.overlay.lookup import Result
from overlaykit.overlay.marker_names import WHITEOUT_DEVICE
from overlaykit.overlay.markers import DEFAULT_ACL, is_aufs_name
from overlaykit.overlay.nodes import File
from overlaykit.overlay.operation import operation
from overlaykit.overlay.whiteouts import NOT_HIDDEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from overlaykit.overlay.attributes import Caller
    from overlaykit.overlay.files import Files
    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.links import Links
    from overlaykit.overlay.lookup import Lookup
    from overlaykit.overlay.nodes import Directory, Node
    from overlaykit.overlay.tree import Tree


class Creation:
    """Makes new names in the upper. Returns the new nodes, with attributes if these were just read.

    Requires: a lookup of the name has found nothing (only the upper is searched again); the process's umask is 0 (it is
    set to the caller's while a file is made).
    """

    def __init__(self, tree: Tree, lookup: Lookup, links: Links, files: Files) -> None:
        self.modes = tree.modes
        self._tree = tree
        self._lookup = lookup
        self._links = links
        self._files = files
        self._uid = os.geteuid()
        self._gid = os.getegid()

    @operation
    def create(
        self, directory: Directory, name: bytes, mode: int, caller: Caller
    ) -> tuple[Result, int]:
        """A new regular file, and a handle of it that reads and writes."""
        descriptors: list[int] = []

        def make(layer_dir: LayerDir, name: bytes) -> None:
            descriptors.append(os.open(name, NEW_FILE, stat.S_IMODE(mode), dir_fd=layer_dir.fd()))
            read_quietly(descriptors[-1])

        try:
            made = self._make(directory, name, caller, make)
        except BaseException:
            for fd in descriptors:
                os.close(fd)
            raise
        assert isinstance(made.node, File)
        return made, self._files.adopt(made.node, descriptors[-1])

    @operation
    def mkdir(self, directory: Directory, name: bytes, mode: int, caller: Caller) -> Result:
        def make(layer_dir: LayerDir, name: bytes) -> None:
            os.mkdir(name, stat.S_IMODE(mode), dir_fd=layer_dir.fd())

        return self._make(directory, name, caller, make)

    @operation
    def mknod(
        self, directory: Directory, name: bytes, mode: int, device: int, caller: Caller
    ) -> Result:
        """A FIFO, socket, device or regular file. Raises OSError (EPERM) for what would read as a whiteout."""
        if stat.S_ISCHR(mode) and device == WHITEOUT_DEVICE:
            fail(errno.EPERM, name)

        def make(layer_dir: LayerDir, name: bytes) -> None:
            os.mknod(name, mode, device, dir_fd=layer_dir.fd())

        return self._make(directory, name, caller, make)

    @operation
    def symlink(self, directory: Directory, name: bytes, target: bytes, caller: Caller) -> Result:
        def make(layer_dir: LayerDir, name: bytes) -> None:
            os.symlink(target, name, dir_fd=layer_dir.fd())

        return self._make(directory, name, caller, make)

    @operation
    def link(self, node: File, directory: Directory, name: bytes) -> None:
        """One more name for a file. Raises OSError: EMLINK, EEXIST, ENOENT (its last name is gone)."""
        tree = self._tree
        check_name(name)
        layer_dir = tree.writable_directory(directory, name)
        if tree.quota is not None:
            self._require_room(layer_dir.stat())
        tree.copy_up(node)
        tree.keep_original(directory, name)
        if node.links:
            tree.keep_data_in_reach(node, *node.links[0])
        count = self._links.prepare_link(node)
        reach("link.counted")
        source = tree.location(node)
        work = tree.work

        def make(layer_dir: LayerDir, name: bytes) -> None:
            os.link(
                source.name,
                name,
                src_dir_fd=source.dirfd,
                dst_dir_fd=layer_dir.fd(),
                follow_symlinks=source.follow,
            )

        if node.has_origin:
            tree.copyup.mark_impure(layer_dir)
        hidden = tree.whiteouts.find(directory, layer_dir, name)
        if hidden.by_entry:
            temporary = work.new_name()
            make(work.layer_dir, temporary)
            reach("link.made")
            work.publish(temporary, layer_dir, name, replace=True)
        else:
            make(layer_dir, name)
        reach("link.published")
        if hidden.by_aufs:
            tree.whiteouts.remove_aufs_whiteout(layer_dir, name)
        if count is not None:
            node.set_link_count(count + 1)
        tree.table.link(node, directory, name)

    def _make(
        self,
        directory: Directory,
        name: bytes,
        caller: Caller,
        make: Callable[[LayerDir, bytes], None],
    ) -> Result:
        """Run `make` in place or in the work directory, give the result its owner, and publish it as `name`."""
        check_name(name)
        tree = self._tree
        layer_dir = tree.writable_directory(directory, name)
        parent = os.fstat(layer_dir.fd())
        self._require_room(parent)
        tree.keep_original(directory, name)
        owners = tree.owners
        uid = owners.users.stored_for_new(caller.uid)
        gid = -1 if parent.st_mode & stat.S_ISGID else owners.groups.stored_for_new(caller.gid)
        foreign = uid not in (-1, self._uid) or gid not in (-1, self._gid)
        override = layer_dir.layer.override
        in_place = not foreign and override is None
        hidden = NOT_HIDDEN
        if directory.lowers or not in_place:
            hidden = tree.whiteouts.find(directory, layer_dir, name)
            in_place = in_place and hidden == NOT_HIDDEN
        if in_place:
            try:
                _as_caller(caller, make, layer_dir, name)
            except FileExistsError:  # found only now, where no lower shows through
                hidden = tree.whiteouts.find(directory, layer_dir, name)
                in_place = False
        if in_place:
            try:
                st = os.stat(name, dir_fd=layer_dir.fd(), follow_symlinks=False)
            except OSError:
                tree.work.remove(name, layer_dir)  # the operation fails without effect
                raise
        else:
            with self._work_dir(layer_dir, parent) as work_dir:
                temporary = tree.work.new_name()
                try:
                    _as_caller(caller, make, work_dir, temporary)
                    if override is not None and _overrides(work_dir, temporary):
                        self._override(work_dir, temporary, uid, gid, directory, override)
                    elif foreign:
                        _give(work_dir, temporary, uid, gid)
                    st = os.stat(temporary, dir_fd=work_dir.fd(), follow_symlinks=False)
                    reach("create.made")
                    tree.whiteouts.publish(temporary, work_dir, layer_dir, name, hidden)
                except BaseException:
                    tree.work.remove(temporary, work_dir)
                    raise
        if tree.quota is not None:
            tree.quota.add(st)
        if stat.S_ISDIR(st.st_mode):
            node: Node = self._lookup.adopt_directory(directory, name, layer_dir.child(name), st)
        else:
            node = self._lookup.adopt_file(directory, name, st)
        return Result(node, st if in_place else None)  # a rename has moved the change time

    def _require_room(self, parent: os.stat_result) -> None:
        """Raises OSError: ENOSPC if the quota is used up. `parent`: of the directory that gets a name."""
        quota = self._tree.quota
        if quota is not None:
            quota.see_directory(parent)
            quota.reserve(0)

    def _override(
        self,
        work_dir: LayerDir,
        name: bytes,
        uid: int,
        gid: int,
        parent: Directory,
        override: bytes,
    ) -> None:
        """Store the owner and mode of a new file in its attribute; it inherits a set-group-ID parent's group."""
        path = work_dir.proc_path(name)
        new = overrides.Override.of(os.stat(path))
        above = self._tree.override(parent, override)
        if above is not None and above.mode & stat.S_ISGID:
            gid = above.gid
            if stat.S_ISDIR(os.stat(path).st_mode):
                new = new._replace(mode=new.mode | stat.S_ISGID)
        new = new._replace(
            uid=new.uid if uid == -1 else uid,
            gid=new.gid if gid == -1 else gid,
        )
        overrides.write(path, override, new)

    @contextlib.contextmanager
    def _work_dir(self, layer_dir: LayerDir, parent: os.stat_result) -> Iterator[LayerDir]:
        """The work directory, or one in it from which files inherit what they do from `layer_dir`."""
        work = self._tree.work
        acl = _default_acl(layer_dir)
        if acl is None and not parent.st_mode & stat.S_ISGID:
            yield work.layer_dir
            return
        name = work.new_name()
        os.mkdir(name, 0o700, dir_fd=work.layer_dir.fd())
        work_dir = work.layer_dir.child(name)
        try:
            path = work_dir.proc_path()
            if acl is not None:
                os.setxattr(path, DEFAULT_ACL, acl)
            if parent.st_mode & stat.S_ISGID:
                os.chown(path, -1, parent.st_gid)
                os.chmod(path, 0o700 | stat.S_ISGID)
            yield work_dir
        finally:
            work_dir.close()
            work.remove(name)


def _as_caller(
    caller: Caller, make: Callable[[LayerDir, bytes], None], layer_dir: LayerDir, name: bytes
) -> None:
    """Run `make` under the caller's umask, which the file system applies unless there is a default ACL (acl(5))."""
    before = os.umask(caller.umask)
    try:
        make(layer_dir, name)
    finally:
        os.umask(before)


def check_name(name: bytes) -> None:
    """Raises OSError (EINVAL) for a name that no new file can have."""
    # Such a name is an AUFS whiteout in a lower, and an upper may become a lower.
    if is_aufs_name(name):
        fail(errno.EINVAL, name)


def _give(layer_dir: LayerDir, name: bytes, uid: int, gid: int) -> None:
    """Change the owner of a new file, and keep its mode: chown(2) clears the set-ID bits."""
    fd = layer_dir.fd()
    mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
    os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
    if mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISLNK(mode):
        os.chmod(name, stat.S_IMODE(mode), dir_fd=fd)


def _overrides(layer_dir: LayerDir, name: bytes) -> bool:
    return overrides.applies(os.stat(name, dir_fd=layer_dir.fd(), follow_symlinks=False).st_mode)


def _default_acl(layer_dir: LayerDir) -> bytes | None:
    return attributes.xattr_or_none(layer_dir.proc_path(), DEFAULT_ACL)
