"""Have the kernel write to an upper what programs have written to a mount, and it has kept until now."""

from __future__ import annotations

import os

from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlaykit.views.entry import About


def flush(about: About) -> None:
    """Write it, if the mount can be reached."""
    from overlaykit import attributes

    with suppress(OSError):
        fd = os.open(
            about.target or f"/proc/{about.pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        )
        try:
            if os.fstat(fd).st_dev == about.device:
                attributes.sync_file_system(fd)
        finally:
            os.close(fd)
