"""Extended attributes of nodes, without overlay markers and with the ids in ACLs mapped."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from overlaykit.overlay import acl, overrides
from overlaykit.overlay.failure import fail
from overlaykit.overlay.markers import ACLS, DEFAULT_ACL
from overlaykit.overlay.nodes import File
from overlaykit.overlay.operation import operation

if TYPE_CHECKING:
    from overlaykit.overlay.files import Files
    from overlaykit.overlay.nodes import Node
    from overlaykit.overlay.tree import Tree


class Xattrs:
    """Reads and changes extended attributes."""

    def __init__(self, tree: Tree, files: Files) -> None:
        self.modes = tree.modes
        self._tree = tree
        self._files = files

    @operation
    def get(self, node: Node, name: bytes) -> bytes:
        """Read an attribute.

        Raises: OSError (ENODATA), also for a marker.
        """
        if name == self._tree.override_name(node):
            fail(errno.ENODATA)
        location = self._tree.writable_location(node)
        stored = self._tree.markers.escape(name)
        try:
            value = location.read(
                lambda: os.getxattr(location.path, stored, follow_symlinks=location.follow)
            )
        except OSError as error:
            # A layer without ACLs: the kernel would take the error for that of its own check of permissions.
            if error.errno == errno.EOPNOTSUPP and name in ACLS:
                fail(errno.ENODATA)
            raise
        if name not in ACLS:
            return value
        return acl.shown(value, self._tree.owners, idmapped=self._tree.layer_of(node).idmapped)

    @operation
    def names(self, node: Node, *, trusted: bool) -> list[bytes]:
        """The names of a node's attributes; `trusted`: also those under `trusted.`."""
        location = self._tree.location(node)
        markers = self._tree.markers
        try:
            names = location.read(
                lambda: os.listxattr(location.path, follow_symlinks=location.follow)
            )
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return []
            raise
        encoded = (os.fsencode(name) for name in names)
        override = self._tree.override_name(node)
        shown = (
            markers.unescape(name)
            for name in encoded
            if not markers.is_marker(name) and name != override
        )
        return [name for name in shown if trusted or not name.startswith(b"trusted.")]

    @operation
    def set(self, node: Node, name: bytes, value: bytes, *, cleared: int = 0) -> None:
        """Set an attribute, and clear the bits `cleared` of the mode, as setting an ACL from outside the group does.

        Raises: OSError: EPERM for the attribute that holds owner and mode, EACCES for a file's default ACL.
        """
        self.require_settable(node, name)
        is_acl = name in ACLS
        if is_acl:
            value = acl.stored(value, self._tree.owners)
        quota = self._tree.quota
        if quota is not None:
            quota.reserve(0)
        self._tree.copy_up(node)
        if is_acl:  # it changes the mode, but needs no permission of the mode's
            self._files.wake(node)
            location = self._tree.location(node)
            self._tree.show_mode(location)
        else:
            location = self._tree.writable_location(node)
        stored = self._tree.markers.escape(name)
        if quota is None:
            os.setxattr(location.path, stored, value, follow_symlinks=location.follow)
        else:
            quota.settle(node.opened if isinstance(node, File) else None)
            before = location.stat()
            os.setxattr(location.path, stored, value, follow_symlinks=location.follow)
            quota.change(before, location.stat())
        if cleared:
            mode = stat.S_IMODE(location.stat().st_mode)
            if mode & cleared:
                os.chmod(location.name, mode & ~cleared, dir_fd=location.dirfd)

    def require_settable(self, node: Node, name: bytes) -> None:
        """Check that an attribute may be set.

        Raises: OSError: EPERM for an attribute that holds owner and mode, in the file's layer or in the upper; EACCES
        for a default ACL of a file that is no directory.
        """
        if name == DEFAULT_ACL and node.kind != stat.S_IFDIR:
            fail(errno.EACCES)
        if overrides.applies(node.kind) and name in (
            self._tree.layers[0].override,
            self._tree.override_name(node),
        ):
            fail(errno.EPERM)

    @operation
    def remove(self, node: Node, name: bytes) -> None:
        """Remove an attribute.

        Raises: OSError (ENODATA), without copy-up, if there is none.
        """
        if not self.has_to_remove(node, name):
            return
        self._tree.copy_up(node)
        if name in ACLS:
            self._files.wake(node)
        location = self._tree.writable_location(node)
        os.removexattr(
            location.path, self._tree.markers.escape(name), follow_symlinks=location.follow
        )

    @operation
    def has_to_remove(self, node: Node, name: bytes) -> bool:
        """Whether there is an attribute to remove.

        Raises: OSError (ENODATA) if not; False for an ACL.
        """
        try:
            self.get(node, name)
        except OSError as error:
            if error.errno != errno.ENODATA or name not in ACLS:
                raise
            return False
        return True
