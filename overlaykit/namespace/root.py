"""Change the root directory to a detached mount."""

from __future__ import annotations

import os

from overlaykit import _native
from overlaykit.namespace.detached import NODEV, NOEXEC, NOSUID, RDONLY, fresh


def make_root(mount: int, whole_proc: int) -> None:
    """Make the detached `mount` the root directory, and unmount the old root.

    Below the new root is a small file system that no path reaches, with a whole procfs for mount_too_revealing() to
    find. The view's root covers its root: for the kernel, no process of the view is in a chroot(2), where it could make
    no user namespace (current_chrooted() in fs/namespace.c).

    Raises:
      OSError: EINVAL where the old root is the initial ramfs, which pivot_root(2) cannot move.
    """
    below = fresh("tmpfs", NOSUID | NODEV | NOEXEC, mode="0500")
    _exchange_root(below)
    os.mkdir("/proc", 0o500)
    _native.move_mount(whole_proc, "", _native.AT_FDCWD, "/proc", _native.MOVE_MOUNT_F_EMPTY_PATH)
    _native.mount_setattr(below, "", _native.AT_EMPTY_PATH, attr_set=RDONLY)
    _cover_root(mount)
    os.chroot(".")
    for descriptor in (below, whole_proc):
        os.close(descriptor)


def _exchange_root(mount: int) -> None:
    """pivot_root(2) with one mountpoint for the new and the old root (its NOTES)."""
    _cover_root(mount)
    _native.pivot_root(".", ".")
    _native.umount2(".", _native.MNT_DETACH)
    os.chdir("/")


def _cover_root(mount: int) -> None:
    """Attach a mount, private, on top of the root directory, and make it the working directory."""
    _native.mount_setattr(
        mount,
        "",
        _native.AT_EMPTY_PATH | _native.AT_RECURSIVE,
        propagation=_native.MS_PRIVATE,
    )
    _native.move_mount(mount, "", _native.AT_FDCWD, "/", _native.MOVE_MOUNT_F_EMPTY_PATH)
    os.fchdir(mount)
