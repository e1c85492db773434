"""A directory of a hundred thousand names: each is listed once, whatever happens beside it."""

from __future__ import annotations

import os
import stat

from ..overlay.inside import as_root
from ..overlay.stack import Stack
from ..posix import syscalls
from .mounted import mounted

NAMES = 100_000


@as_root
def test_a_hundred_thousand_names_are_listed_once_while_others_come_and_go(stack: Stack) -> None:
    lower = stack.add({})
    syscalls.mount(b"names", os.fsencode(lower), b"tmpfs", 0)  # a disk takes its time to make them
    at = os.open(lower, os.O_RDONLY)
    for number in range(NAMES):
        os.mknod(f"{number}", stat.S_IFREG | 0o644, dir_fd=at)
    os.close(at)
    with mounted(stack) as mount:
        seen = []
        with os.scandir(mount.target) as entries:
            for count, entry in enumerate(entries):
                seen.append(entry.name)
                if count % 10_000 == 0:
                    os.unlink(mount.path(f"{NAMES - 1 - count // 10_000}"))
                    with open(mount.path(f"new{count}"), "w"):
                        pass
        assert len(seen) == len(set(seen))
        stayed = {str(number) for number in range(NAMES - 10)}
        assert stayed <= set(seen)
    syscalls.umount2(os.fsencode(lower))
