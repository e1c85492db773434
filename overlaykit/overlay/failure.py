"""How the overlay reports errors: `OSError` with an errno and, where one is concerned, a name."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def fail(number: int, name: bytes = b"") -> NoReturn:
    raise OSError(number, os.strerror(number), os.fsdecode(name) or None)
