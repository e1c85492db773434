"""The names of markers on disk, for `markers`, which reads and writes them, and for the probe of a disk."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

TRUSTED_PREFIX: Final = b"trusted.overlay."
USER_PREFIX: Final = b"user.overlay."
AUFS_WHITEOUT: Final = b".wh."
WHITEOUT_DEVICE: Final = os.makedev(0, 0)


def is_whiteout_device(st: os.stat_result) -> bool:
    """Whether an entry is the kernel's form of a whiteout, a character device 0:0."""
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == WHITEOUT_DEVICE


def prefixes(*, user: bool) -> tuple[bytes, bytes]:
    """The prefix of the markers that a mount of the kernel's overlayfs reads, and that of those it does not.

    `user`: it is mounted in a user namespace, with `userxattr`.
    """
    return (USER_PREFIX, TRUSTED_PREFIX) if user else (TRUSTED_PREFIX, USER_PREFIX)
