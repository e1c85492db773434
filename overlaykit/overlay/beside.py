"""Where the work directory of an upper is, unless a mount option names another one."""

from __future__ import annotations

import os


def work_beside(upper: str) -> str:
    """The path of the work directory. `upper`: an absolute path."""
    parent, name = os.path.split(upper)
    return os.path.join(parent, f".{name}.overlaykit")
