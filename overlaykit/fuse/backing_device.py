"""Settings of a mount's backing device (/sys/class/bdi, Documentation/ABI/testing/sysfs-class-bdi), which take root.

FUSE starts with a readahead of 128 KiB, an eighth of what one request can carry, and with 1% of the memory for dirty
pages (fs/fuse/inode.c: fuse_bdi_init). The settings end with the mount.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from overlaykit.fuse import holders

_DEVICES: Final = "/sys/class/bdi"

_SETTINGS: Final = {
    "read_ahead_kb": 1024,
    # Still far from what all dirty pages may take: the daemon may be slow, and the others are not to wait for it.
    "max_ratio": 10,
}


def tune(mount: str) -> None:
    """Set them for the mount at this path, where that is allowed. Requires: INIT was answered, which lowers them."""
    device = holders.device_of(mount)
    directory = os.path.join(_DEVICES, f"{os.major(device)}:{os.minor(device)}")
    for name, value in _SETTINGS.items():
        # An ordinary user may not, and a container may have no /sys, or a read-only one.
        with contextlib.suppress(OSError), open(os.path.join(directory, name), "w") as file:
            file.write(str(value))
