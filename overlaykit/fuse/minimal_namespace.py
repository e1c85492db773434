"""The mount namespace that the daemon of an attached mount lives in: almost no mounts, and never its own.

A daemon that sees its own mount may wait for itself: a module that is imported late and lies below the mount is enough.
Other mounts would stay alive in the daemon's copy of them after they were unmounted on the host.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from overlaykit import _native, mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterable


def enter_minimal_mount_namespace(target: str, needed: Iterable[str]) -> None:
    """Move this process into a mount namespace without `target`, and with the mounts that the `needed` paths lie on.

    Unmounting `target` on the host still works. No descriptor of the old namespace is kept: it would keep the mount
    after the last process there has ended.
    Raises OSError: EPERM without CAP_SYS_ADMIN.
    """
    _native.unshare(_native.CLONE_NEWNS)
    _native.mount(None, "/", None, _native.MS_REC | _native.MS_SLAVE)
    _native.umount2(target, _native.UMOUNT_NOFOLLOW | _native.MNT_DETACH)
    _detach_unneeded(needed)


def _detach_unneeded(needed: Iterable[str]) -> None:
    """Detach every mount of this namespace that is neither above nor below one of the `needed` paths.

    Mounts locked by a user namespace stay (mount_namespaces(7)).
    Requires: the namespace is private to the caller.
    """
    kept = {os.path.realpath(path) for path in needed}
    tried: set[int] = set()
    # A detached mount may have covered others: repeat until none is new.
    while unneeded := [
        mount
        for mount in mountinfo.visible(mountinfo.current())
        if mount.id not in tried and not any(_are_in_line(path, mount.mountpoint) for path in kept)
    ]:
        tried.update(mount.id for mount in unneeded)
        for path in mountinfo.outermost(mount.mountpoint for mount in unneeded):
            # EINVAL: locked.
            with contextlib.suppress(OSError):
                _native.umount2(path, _native.UMOUNT_NOFOLLOW | _native.MNT_DETACH)


def _are_in_line(path: str, other: str) -> bool:
    return path == other or mountinfo.below(path, other) or mountinfo.below(other, path)
