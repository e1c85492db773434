"""The mount namespace that a daemon serves in: its interpreter, a procfs, and layers that are trees of mounts.

A daemon that is taken over opens no file of the host by its path, and one that follows a path astray finds none. A
daemon that sees its own mount may wait for itself: a module that is imported late and lies below the mount is enough.
Mounts of the host would stay alive in the daemon's copy of them after they were unmounted there.

Of the mount namespace that the daemon starts in nothing stays attached: its root becomes the stage, a small file
system. Detaching all of the old one at once costs one grace period of RCU; each mount by itself would cost one too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Final

import overlaykit
from overlaykit import _native, mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterable

_MS_UNBINDABLE: Final = 1 << 17  # include/uapi/linux/mount.h


def _needed(paths: Iterable[str]) -> tuple[str, ...]:
    """Those of the paths that exist, as they are named and as symlinks lead to them, without those below another."""
    named = [os.path.abspath(path) for path in paths if os.path.exists(path)]
    return mountinfo.outermost({*named, *map(os.path.realpath, named)} - {"/"})


_NEEDED: Final = _needed(["/proc", *filter(None, sys.path), *overlaykit.__path__])
"""What a daemon opens by its path: modules that are imported late, their source for a traceback, its filters."""


_ARCHIVES: Final = tuple(path for path in _NEEDED if not os.path.isdir(path))
"""Of modules (zipimport)."""


def _places() -> tuple[str, ...]:
    """The directories to bind the needed paths on and above them, without the root, each before those below it."""
    found = set(_NEEDED).difference(_ARCHIVES)
    for path in _NEEDED:
        while (path := os.path.dirname(path)) != "/":
            found.add(path)
    return tuple(sorted(found))


_PLACES: Final = _places()


def isolate(target: str) -> int:
    """Move this process into a mount namespace of its own without the mount `target`. Returns: `make_stage`.

    Unmounting `target` on the host still works. Raises: OSError: EPERM without CAP_SYS_ADMIN.
    """
    _native.unshare(_native.CLONE_NEWNS)
    _native.mount(None, "/", None, _native.MS_REC | _native.MS_SLAVE)
    if any(mountinfo.below(target, path) for path in _NEEDED):
        _native.umount2(target, _native.UMOUNT_NOFOLLOW | _native.MNT_DETACH)
    return make_stage("/")


def make_stage(at: str) -> int:
    """Mount the stage at a directory. Returns: its descriptor. Raises: OSError: EPERM without CAP_SYS_ADMIN."""
    fs = _native.fsopen("tmpfs", _native.FSOPEN_CLOEXEC)
    try:
        _native.fsconfig(fs, _native.FSCONFIG_CMD_CREATE, None, None)
        stage = _native.fsmount(fs, _native.FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(fs)
    try:
        # No layer shows it: `at` could not be removed while a mount of this namespace is on it.
        _native.mount_setattr(stage, b"", _native.AT_EMPTY_PATH, 0, 0, _MS_UNBINDABLE)
        _native.move_mount(stage, b"", _native.AT_FDCWD, at, _native.MOVE_MOUNT_F_EMPTY_PATH)
    except BaseException:
        os.close(stage)
        raise
    return stage


def enter(stage: int) -> None:
    """Make the stage the root of this mount namespace, with what a daemon needs, and detach all other mounts.

    Closes the descriptor. Layers on the stage stay. What is open stays open.
    Requires: the mount namespace is this process's own, and no mount in it is shared.
    Raises: OSError.
    """
    for path in _PLACES:
        os.mkdir(path[1:], dir_fd=stage)
    for path in _ARCHIVES:
        os.mknod(path[1:], dir_fd=stage)
    for path in _NEEDED:
        with contextlib.suppress(FileNotFoundError):
            _bind(path, stage)
    attributes = _native.MOUNT_ATTR_RDONLY | _native.MOUNT_ATTR_NOSUID | _native.MOUNT_ATTR_NODEV
    whole = _native.AT_EMPTY_PATH | _native.AT_RECURSIVE
    _native.mount_setattr(stage, b"", whole, attributes, 0, _native.MS_PRIVATE)
    os.fchdir(stage)
    try:
        _native.pivot_root(".", ".")
        _native.umount2(".", _native.MNT_DETACH)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # The root is the initial ramfs, or no mountpoint: its mounts stay, below a root that no path leaves.
        _native.move_mount(stage, b"", _native.AT_FDCWD, "/", _native.MOVE_MOUNT_F_EMPTY_PATH)
        os.chroot(".")
    os.chdir("/")
    os.close(stage)


def _bind(path: str, stage: int) -> None:
    """Show a path of this mount namespace, with the mounts below it, under its name on the stage."""
    flags = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC | _native.AT_RECURSIVE
    tree = _native.open_tree(_native.AT_FDCWD, path, flags)
    try:
        _native.move_mount(tree, b"", stage, path[1:], _native.MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)
