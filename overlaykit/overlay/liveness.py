"""What the kernel was told of a file of a live lower: one that others may change while it is merged.

Under the writeback cache the kernel takes a file's size and times once, with the first reply that names its nodeid
(fs/fuse/inode.c: fuse_get_cache_mask). So a file that has changed in place gets another node. Its pages stay as long as
they are sure to be those of the file: the next open drops them otherwise.
"""

from __future__ import annotations

import stat

from overlaykit.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Final

SETTLED_NS: Final = 60 * 10**9
"""A program that has mapped a file writes to a page without a new modification time until the disk has got that page:
after 30 s by default, and the next of the kernel's flushers (Documentation/admin-guide/sysctl/vm.rst)."""


class Version(NamedTuple):
    """A state of an inode."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, st: os.stat_result) -> Version:
        return cls(st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)

    def is_settled(self, fresh_ns: int) -> bool:
        """Whether what was read at the time `fresh_ns` is what the file holds, as long as it has this version."""
        return fresh_ns - max(self.modified_ns, self.changed_ns) > SETTLED_NS


def is_same_inode(version: Version, st: os.stat_result) -> bool:
    return (version.device, version.inode) == (st.st_dev, st.st_ino)


def is_directory(st: os.stat_result | None) -> bool:
    return st is not None and stat.S_ISDIR(st.st_mode)
