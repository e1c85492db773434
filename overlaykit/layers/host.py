"""The host's root as a layer: the root mount and those below it that hold files.

What the kernel makes up (/proc, /sys, /dev ...), what lives only while the machine runs (/run), and what
another process answers for (FUSE, and so another view) does not belong: a view has its own of the first
two, and asking a process that may be waiting for us is how a view hangs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from overlaykit.layers.layer import Layer
from overlaykit.mountinfo import current, outermost, visible

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
"""File system types as mountinfo names them. `fuse.*` is not among them, only block devices' `fuseblk`."""

_OF_THE_RUNNING_MACHINE = ("/proc", "/sys", "/dev", "/run")


def host(hidden: Iterable[str] = ()) -> Layer:
    """The host's root: the root mount with the mounts below it that hold files.

    `masks` are the mountpoints that do not belong, /proc, /sys, /dev and /run where they exist, and
    `hidden` (a view's own upper, work and scratch directories), without those below another mask.

    Raises OSError when /proc/self/mountinfo cannot be read.
    """
    masks = [path for path in _OF_THE_RUNNING_MACHINE if os.path.isdir(path)]
    masks += [
        mount.mountpoint
        for mount in visible(current())
        # The root belongs whatever its type: it may itself be a container's FUSE overlay.
        if mount.mountpoint != "/" and mount.fstype not in _HOLD_FILES
    ]
    masks += map(os.path.realpath, hidden)
    return Layer(name=NAME, path="/", recursive=True, masks=outermost(masks))
