"""The memory image that the daemons of one fork server share (native/image.c).

The counts of references of an idle daemon differ from the server's on 1,800 pages, but from those of another idle
daemon on 400. The first daemon publishes its pages when it is idle. Each daemon then maps them in place of equal ones
of its own. What it writes later is its own (MAP_PRIVATE), until it is idle again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass

from overlaykit import _native


def create() -> int:
    """An empty image: a descriptor. Raises: OSError."""
    return os.memfd_create("overlaykit-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def is_complete(image: int) -> bool:
    return bool(fcntl.fcntl(image, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE)


def is_empty(image: int) -> bool:
    return os.fstat(image).st_size == 0


def replace(image: int) -> None:
    """Make the descriptor that of an empty image. Daemons that have the old one keep it."""
    empty = create()
    os.dup2(empty, image, inheritable=False)
    os.close(empty)


@dataclass(frozen=True, slots=True)
class Image:
    """A daemon's part in an image. `publishes`: it is the daemon that fills it."""

    descriptor: int
    publishes: bool

    def share(self) -> bool:
        """Share the pages that are equal. Returns: false if that may be possible later."""
        # Without memory or /proc, the daemon only stays larger.
        with contextlib.suppress(OSError):
            try:
                _native.share_pages(self.descriptor, self.publishes)
            except BlockingIOError:
                return False
        return True
