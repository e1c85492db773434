"""The umask of the caller: a command gets it, while our own directories stay of use to ourselves."""

from __future__ import annotations

import os
from typing import Final

_OTHERS: Final = 0o077

_found: int | None = None


def spare_owner() -> None:
    """Take nothing from the owner of what this program makes, so that it can enter its own directories."""
    global _found
    _found = os.umask(_OTHERS)
    os.umask(_found & _OTHERS)


def found() -> int | None:
    """The caller's umask, where `spare_owner` has been called."""
    return _found
