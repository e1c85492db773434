"""Views and mounts: where `layers`, `fuse` and `namespace` meet.

May import every room but `cli`. Start reading at `view` (layers + a mount + a launch), then `mounts` (a mount alone),
`options` (what `-o` takes), `unmounting` (the end of a mount) and `registry` (which of them are running).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from overlaykit.views.mounts import mount
    from overlaykit.views.options import parse_options
    from overlaykit.views.registry import Registry, Running, explain
    from overlaykit.views.unmounting import umount
    from overlaykit.views.view import View

__all__ = ["Registry", "Running", "View", "explain", "mount", "parse_options", "umount"]

_MODULES: Final = {
    "Registry": "registry",
    "Running": "registry",
    "View": "view",
    "explain": "registry",
    "mount": "mounts",
    "parse_options": "options",
    "umount": "unmounting",
}


def __getattr__(name: str) -> object:
    # Late: each command loads what it uses. `run` needs no mount options, `umount` no layers.
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
