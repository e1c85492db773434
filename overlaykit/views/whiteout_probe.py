"""A probe of the kernel's overlayfs: whether it takes an empty file with an attribute for a whiteout.

Linux 6.7 does, where the directory's `overlay.opaque` is `x`. Source: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os

from overlaykit import _native
from overlaykit.overlay.marker_names import prefixes

_FLAGS = _native.MS_NOSUID | _native.MS_NODEV


def reads_whiteout_attributes(stage: str, *, user: bool) -> bool:
    """Merge two directories, of which the upper one has such a whiteout, on the empty directory `stage`.

    `user`: with the markers `user.overlay.*`. Requires: a mount namespace of this process's own.
    """
    prefix, _ = prefixes(user=user)
    _native.mount("probe", stage, "tmpfs", _FLAGS, "mode=0700,size=64k")
    try:
        root = os.open(stage, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            here = f"/proc/self/fd/{root}"
            for name in ("top/d", "bottom/d", "merged"):
                os.makedirs(f"{here}/{name}")
            for name in ("top/d/gone", "bottom/d/gone"):
                os.mknod(f"{here}/{name}")
            os.setxattr(f"{here}/top/d", prefix + b"opaque", b"x")
            os.setxattr(f"{here}/top/d/gone", prefix + b"whiteout", b"y")
            options = f"{'userxattr,' if user else ''}lowerdir={here}/top:{here}/bottom"
            _native.mount("probe", f"{here}/merged", "overlay", _FLAGS, options)
            return os.listdir(f"{here}/merged/d") == []
        except OSError:  # no attributes of users in memory, before Linux 6.6
            return False
        finally:
            os.close(root)
    finally:
        _native.umount2(stage, _native.MNT_DETACH)
