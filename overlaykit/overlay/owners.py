"""Whose a file is: the owners a view shows for those on disk, and back.

Inside an unprivileged user namespace most of the machine's files belong to users that do not exist there: the kernel
shows the overflow id, and refuses every write to such an inode (inode_permission(9): an unmapped owner). A view
whose user is root should find root's files root's own: `squash_unmapped` shows them so. What may really be
read or copied is still decided below, by the file system that holds it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owners:
    """Maps real ids to shown ones. The default shows each as it is."""

    overflow_uid: int = -1
    """The uid that stands for unmapped ones (/proc/sys/kernel/overflowuid), shown as 0; -1: shown as it is."""
    overflow_gid: int = -1

    def uid(self, real: int) -> int:
        return 0 if real == self.overflow_uid else real

    def gid(self, real: int) -> int:
        return 0 if real == self.overflow_gid else real

    @classmethod
    def squash_unmapped(cls) -> Owners:
        """Show what the current user namespace cannot name as root's."""
        return cls(_overflow("uid"), _overflow("gid"))


SHOWN_AS_THEY_ARE = Owners()


def _overflow(kind: str) -> int:
    with open(f"/proc/sys/kernel/overflow{kind}") as file:
        return int(file.read())
