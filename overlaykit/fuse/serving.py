"""The daemon that serves a mount, from the pid that lasts as long as the mount: its own, or its keeper's (`keeper`)."""

from __future__ import annotations

import os

from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_NAME: Final = "daemon\n"
"""native/kept.c."""


def daemon_of(process: int) -> int:
    """The daemon that a keeper has forked; `process` itself if it is no keeper, or has none now, or is not shown."""
    with suppress(OSError):  # it has ended
        if os.readlink("/proc/self") != str(os.getpid()):  # of another PID namespace
            return process
        with open(f"/proc/{process}/task/{process}/children", encoding="utf-8") as file:
            children = file.read().split()
        for child in children:
            with suppress(OSError), open(f"/proc/{child}/comm", encoding="utf-8") as file:
                if file.read() == _NAME:
                    return int(child)
    return process
