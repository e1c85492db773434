"""How the inode of a node is reached: by a name in a directory or by a descriptor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlaykit.overlay.layer import Layer

T = TypeVar("T")


class Location(NamedTuple):
    """How a node's inode is reached now: `name` in `dirfd`, followed if it is a link of /proc/self/fd.

    `lower`: the layer in which it lies, if that is a lower.
    """

    dirfd: int
    name: bytes
    follow: bool
    lower: Layer | None = None

    @property
    def path(self) -> bytes:
        """A path for system calls that take no descriptor."""
        return self.name if self.follow else b"/proc/self/fd/%d/%s" % (self.dirfd, self.name)

    def read(self, action: Callable[[], T]) -> T:
        """Run `action`, which only reads, with capabilities if modes of a lower deny access."""
        if self.lower is None:
            return action()
        return self.lower.read(action, self.dirfd, self.name)

    def stat(self) -> os.stat_result:
        return self.read(lambda: os.stat(self.name, dir_fd=self.dirfd, follow_symlinks=self.follow))

    def chown(self, uid: int, gid: int) -> None:
        os.chown(self.name, uid, gid, dir_fd=self.dirfd, follow_symlinks=self.follow)

    def open(self, flags: int) -> int:
        flags |= os.O_CLOEXEC if self.follow else os.O_CLOEXEC | os.O_NOFOLLOW

        def action() -> int:
            return os.open(self.name, flags, dir_fd=self.dirfd)

        if self.lower is None:
            return action()
        return self.lower.open(action, self.dirfd, self.name)
