"""What the rooms say of this machine, put together."""

from __future__ import annotations

import os

from overlaykit import namespace
from overlaykit.errors import Error
from overlaykit.fuse import mount
from overlaykit.health import Check
from overlaykit.overlay.format import writable_prefix
from overlaykit.views import places


def checks() -> list[Check]:
    """Every room's, and where uppers are kept."""
    return [*mount.checks(), *namespace.checks(), _scratch()]


def _scratch() -> Check:
    name = "marks on disk"
    try:
        path = places.scratch()
        prefix = writable_prefix(os.fsencode(path), user=False).decode()
    except (Error, OSError) as error:
        return Check(
            name=name,
            ok=False,
            detail=str(error),
            fix="set XDG_CACHE_HOME to a directory on a file system with extended attributes",
        )
    return Check(name=name, ok=True, detail=f"{path} takes {prefix}* attributes", fix="")
