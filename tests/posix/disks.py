"""The file systems that an upper may be on, each made and mounted in the sandbox that uses it.

`own`: the file system of the tests' directories. Only root mounts images.
"""

from __future__ import annotations

import os
import subprocess
from typing import Literal, TypeAlias

from . import syscalls
from .systems import Overlaykit, Stack

Disk: TypeAlias = Literal[
    "own", "overlay", "tmpfs", "ext4", "xfs", "btrfs", "overlaykit", "fuse-overlayfs", "bindfs"
]

_MEGABYTES = 320  # mkfs.xfs needs at least 300


def mount_disk(disk: Disk, base: bytes, *, unprivileged: bool) -> None:
    """Mount a new file system of this kind at `base`/disk, with its image or layers beside it."""
    target = base + b"/disk"
    os.mkdir(target)
    match disk:
        case "own":
            return
        case "overlay" | "overlaykit" | "fuse-overlayfs":
            parts = {name: base + b"/disk." + name for name in (b"lower", b"upper", b"work")}
            for path in parts.values():
                os.mkdir(path)
            options = b",".join(name + b"dir=" + path for name, path in parts.items())
            if disk == "fuse-overlayfs":
                subprocess.run([disk, "-o", options, target], check=True, stderr=subprocess.DEVNULL)
            elif disk == "overlaykit":
                Overlaykit(unprivileged).mount(
                    Stack((parts[b"lower"],), parts[b"upper"], parts[b"work"]), target
                )
            else:
                options += b",userxattr" if unprivileged else b""
                syscalls.mount(b"disk", target, b"overlay", 0, options)
        case "bindfs":
            os.mkdir(base + b"/disk.below")
            subprocess.run(["bindfs", base + b"/disk.below", target], check=True)
        case "tmpfs":
            syscalls.mount(b"disk", target, b"tmpfs", 0)
        case _:
            image = base + b"/disk.image"
            with open(image, "wb") as file:
                file.truncate(_MEGABYTES << 20)
            block_size = ["-b", "4096"] if disk == "ext4" else []
            subprocess.run([f"mkfs.{disk}", "-q", *block_size, os.fsdecode(image)], check=True)
            subprocess.run(["mount", "-o", "loop", image, target], check=True)


def unmount_disk(disk: Disk, base: bytes) -> None:
    """Unmount it, not lazily: the loop device must be free afterwards."""
    if disk != "own":
        syscalls.umount2(base + b"/disk")
