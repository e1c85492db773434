"""The caller's umask: commands get it; this program clears the owner's bits of its own."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_GROUP_AND_OTHERS: Final = 0o077

_of_caller: int | None = None


def clear_owner_bits() -> None:
    """Clear the owner's bits of the umask, so that this program can enter the directories that it makes."""
    global _of_caller
    _of_caller = os.umask(_GROUP_AND_OTHERS)
    os.umask(_of_caller & _GROUP_AND_OTHERS)


def of_caller() -> int | None:
    """The umask before `clear_owner_bits`; None without such a call."""
    return _of_caller
