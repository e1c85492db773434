"""What the rooms say of this machine, put together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from overlaykit import namespace
from overlaykit.errors import Error
from overlaykit.fuse import mount
from overlaykit.health import Check
from overlaykit.layers import Store
from overlaykit.overlay.format import writable_prefix
from overlaykit.views import places
from overlaykit.views.registry import Registry

if TYPE_CHECKING:
    from overlaykit.views.registry import Entry


def checks() -> list[Check]:
    """Every room's, and where the command keeps what."""
    return [*mount.checks(), *namespace.checks(), *_places(), Store().check()]


def _places() -> list[Check]:
    """An entry and its scratch are made for real, and removed."""
    log = places.log()
    answers = [
        Check(
            name="log",
            ok=log != "",
            detail=f"{log}, once there is something to say" if log else "no directory can hold one",
            fix="" if log else "set XDG_STATE_HOME to a directory that you may write to",
        )
    ]
    try:
        registry = Registry()
        entry = registry.enter(None)
    except (Error, OSError) as error:
        fix = "set XDG_RUNTIME_DIR to a directory of your own that you may write to"
        return [Check(name="running views", ok=False, detail=str(error), fix=fix), *answers]
    try:
        where = os.path.dirname(entry.path)
        answers.append(Check(name="running views", ok=True, detail=f"noted in {where}", fix=""))
        answers.append(_marks(entry))
    finally:
        entry.close()
        registry.leave()
    return answers


def _marks(entry: Entry) -> Check:
    name = "marks on disk"
    try:
        path = entry.make_scratch()
        prefix = writable_prefix(os.fsencode(path), user=False).decode()
    except (Error, OSError) as error:
        fix = "set XDG_CACHE_HOME to a directory on a file system with extended attributes"
        return Check(name=name, ok=False, detail=str(error), fix=fix)
    where = os.path.dirname(path)
    return Check(name=name, ok=True, detail=f"{where} takes {prefix}* attributes", fix="")
