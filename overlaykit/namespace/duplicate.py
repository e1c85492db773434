"""Copies of a detached mount: a launch uses up its root, and a view may launch several commands."""

from __future__ import annotations

import os

from overlaykit import _native, child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlaykit.namespace.spec import RootMount

# With the mounts below, such as masks.
_CLONE = (
    _native.OPEN_TREE_CLONE
    | _native.OPEN_TREE_CLOEXEC
    | _native.AT_EMPTY_PATH
    | _native.AT_RECURSIVE
)


def duplicate(root: RootMount) -> tuple[int, int]:
    """Replace a detached mount, whose descriptor is closed, by two copies.

    Before Linux 6.15 open_tree(2) clones only mounts of the caller's mount namespace (__do_loopback() in
    fs/namespace.c), so a child attaches it over the root directory of a mount namespace of its own.

    Raises:
      OSError: as setns(2), unshare(2), move_mount(2) and open_tree(2), and as `child.make`; the mount is unchanged.
    """

    def clone() -> child.Made:
        if root.user_namespace is not None:
            _native.setns(root.user_namespace, _native.CLONE_NEWUSER)
        _native.unshare(_native.CLONE_NEWNS)
        _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
        _native.move_mount(root.mount, "", _native.AT_FDCWD, "/", _native.MOVE_MOUNT_F_EMPTY_PATH)
        return [_native.open_tree(root.mount, "", _CLONE) for _ in range(2)], b""

    (first, second), _ = child.make(clone, most_descriptors=2)
    os.close(root.mount)
    return first, second
