"""Detached mounts: make one, clone one, attach one."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from overlaykit import _native
from overlaykit.namespace.failure import Step, StepFailed, step

NOSUID: Final = _native.MOUNT_ATTR_NOSUID
NODEV: Final = _native.MOUNT_ATTR_NODEV
NOEXEC: Final = _native.MOUNT_ATTR_NOEXEC
RDONLY: Final = _native.MOUNT_ATTR_RDONLY


def fresh(fstype: str, attributes: int, **options: str) -> int:
    """A detached mount of a fresh file system, with MOUNT_ATTR_* `attributes` and the file system's options.

    Raises:
      OSError: as fsopen(2), fsconfig(2) and fsmount(2).
    """
    context = _native.fsopen(fstype, _native.FSOPEN_CLOEXEC)
    try:
        for key, value in {"source": fstype, **options}.items():
            _native.fsconfig(context, _native.FSCONFIG_SET_STRING, key, value)
        _native.fsconfig(context, _native.FSCONFIG_CMD_CREATE, None, None)
        return _native.fsmount(context, _native.FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def clone(path: str, *, attributes: int = 0) -> int:
    """A detached clone of the mount at `path` and of all mounts below it.

    An unprivileged process may make no other clone: it would reveal what the mounts below cover (has_locked_children()
    in fs/namespace.c).

    Raises:
      OSError: as open_tree(2) and mount_setattr(2).
    """
    mount = _native.open_tree(
        _native.AT_FDCWD,
        path,
        _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC | _native.AT_RECURSIVE,
    )
    if attributes:
        _native.mount_setattr(
            mount, "", _native.AT_EMPTY_PATH | _native.AT_RECURSIVE, attr_set=attributes
        )
    return mount


def attach(mount: int, target: str) -> None:
    """Attach a detached mount at `target` and close its descriptor; make the mountpoint if it is missing.

    Raises:
      StepFailed: the mountpoint cannot be made, or move_mount(2) fails.
    """
    is_directory = stat.S_ISDIR(os.fstat(mount).st_mode)
    with step(Step.MOUNTPOINT, target):
        mountpoint = _mountpoint(target, is_directory=is_directory)
    if os.path.isdir(mountpoint) != is_directory:
        raise StepFailed(Step.MISMATCH, errno.ENOTDIR if is_directory else errno.EISDIR, target)
    with step(Step.ATTACH, target):
        _native.move_mount(mount, "", _native.AT_FDCWD, mountpoint, _native.MOVE_MOUNT_F_EMPTY_PATH)
    os.close(mount)


def _mountpoint(target: str, *, is_directory: bool) -> str:
    """The real path of `target`, made if it is missing.

    move_mount(2) follows no symbolic link in the last name.
    """
    place = os.path.realpath(target)
    if not os.path.lexists(place):
        os.makedirs(place if is_directory else os.path.dirname(place), exist_ok=True)
        if not is_directory:
            os.close(os.open(place, os.O_CREAT | os.O_CLOEXEC, 0o644))
    return place
