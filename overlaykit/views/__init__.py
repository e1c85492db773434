"""Views and mounts: where `layers`, `fuse` and `namespace` meet.

May import every room but `cli`. Start reading at `view`, which takes a `spec`, mounts a `rootfs` by one of the
`drivers` and launches a `command`; then `mounts` (a mount alone), `options` (the options of `-o`), `unmounting`, and
`registry` with its `entry` (the running views and mounts).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.views.mounts import mount
    from overlaykit.views.options import parse_options
    from overlaykit.views.registry import Registry, RunningView
    from overlaykit.views.unmounting import umount
    from overlaykit.views.view import View

__all__ = ["Registry", "RunningView", "View", "mount", "parse_options", "umount"]

_MODULES: Final = {
    "Registry": "registry",
    "RunningView": "registry",
    "View": "view",
    "mount": "mounts",
    "parse_options": "options",
    "umount": "unmounting",
}


def __getattr__(name: str) -> object:
    # Late: each command loads what it uses. `run` needs no mount options, `umount` no layers.
    if name in _MODULES:
        module = f"{__name__}.{_MODULES[name]}"
        __import__(module)
        return getattr(sys.modules[module], name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
