"""The host's root as a layer: the root mount and the mounts below it that hold files.

File systems of the kernel (/proc, /sys, /dev ...) and of the running machine (/run) do not belong to it: a view has its
own. Nor does FUSE, and so another view: a request to its daemon, which may be waiting for this view, could hang.
"""

from __future__ import annotations

import os

from overlaykit.layers.layer import Layer
from overlaykit.mountinfo import current, outermost, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "host"

_HOLD_FILES = frozenset(
    {
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs"),
        *("nilfs2", "ubifs", "jffs2", "gfs2", "ocfs2", "ufs", "minix", "hfs", "hfsplus", "apfs"),
        *("vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "udf"),
        *("iso9660", "squashfs", "erofs", "cramfs", "romfs"),
        *("overlay", "tmpfs", "ramfs", "rootfs"),
        *("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "afs", "ceph", "lustre", "gpfs"),
    }
)
"""File system types as in mountinfo; of FUSE only `fuseblk`, which is on a block device."""

RUNTIME_DIRECTORIES = ("/proc", "/sys", "/dev", "/run")
"""Those that each view has for itself."""


def host(hidden: Iterable[str] = ()) -> Layer:
    """The layer of the host's root.

    Its masks are the mountpoints that do not belong to it, /proc, /sys, /dev and /run where they exist, and `hidden`
    (the upper, work and scratch directories of a view), without those below another mask.

    Raises:
      OSError: /proc/self/mountinfo cannot be read.
    """
    masks = [path for path in RUNTIME_DIRECTORIES if os.path.isdir(path)]
    mounts = list(visible(current()))
    # The root always belongs: it may be a container's FUSE overlay. Parts of it may be mounted once more.
    root = {mount.device for mount in mounts if mount.mountpoint == "/"}
    masks += [
        mount.mountpoint
        for mount in mounts
        if mount.device not in root and mount.fstype not in _HOLD_FILES
    ]
    masks += map(os.path.realpath, hidden)
    return Layer(name=NAME, path="/", recursive=True, masks=outermost(masks))
