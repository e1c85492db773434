"""The file systems that an upper may lie on, each made and mounted in the place where it is used.

`own`: the one that holds the tests' directories. Only root mounts images.
"""

from __future__ import annotations

import os
import subprocess
from typing import Literal, TypeAlias

from . import syscalls

Disk: TypeAlias = Literal["own", "overlay", "tmpfs", "ext4", "xfs", "btrfs"]

_MEGABYTES = 320  # xfs is made no smaller than 300


def mount_disk(disk: Disk, base: bytes, *, unprivileged: bool) -> None:
    """Mount a new file system of this kind at `base`/disk; what it is made of lies beside it."""
    target = base + b"/disk"
    os.mkdir(target)
    match disk:
        case "own":
            return
        case "overlay":
            parts = {name: base + b"/disk." + name for name in (b"lower", b"upper", b"work")}
            for path in parts.values():
                os.mkdir(path)
            options = b",".join(name + b"dir=" + path for name, path in parts.items())
            if unprivileged:
                options += b",userxattr"
            syscalls.mount(b"disk", target, b"overlay", 0, options)
        case "tmpfs":
            syscalls.mount(b"disk", target, b"tmpfs", 0)
        case _:
            image = base + b"/disk.image"
            with open(image, "wb") as file:
                file.truncate(_MEGABYTES << 20)
            subprocess.run([f"mkfs.{disk}", "-q", os.fsdecode(image)], check=True)
            subprocess.run(["mount", "-o", "loop", image, target], check=True)


def unmount_disk(disk: Disk, base: bytes) -> None:
    """At once: a loop device is free then."""
    if disk != "own":
        syscalls.umount2(base + b"/disk")
