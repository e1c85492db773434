"""The sources of layers: a directory, the host's root, .deb packages, an archive; and the store.

May import: `_native`, `beneath`, `errors`, `health`, `mountinfo`, `privilege`, `rmtree`; never `fuse`, `namespace` or
`overlay`. Start reading at `resolve` (`-l`), then `source` (`layer add`) and `store`. `tree` creates the files of a new
layer, for `directory` and for `extract`, which reads archives and packages.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.layers.host import host
    from overlaykit.layers.layer import Hold, Layer
    from overlaykit.layers.resolve import resolve
    from overlaykit.layers.store import Store, StoredLayer

__all__ = ["Hold", "Layer", "Store", "StoredLayer", "host", "resolve"]

_MODULES: Final = {
    "Hold": "layer",
    "Layer": "layer",
    "Store": "store",
    "StoredLayer": "store",
    "host": "host",
    "resolve": "resolve",
}


def __getattr__(name: str) -> object:
    # Late: a view of the host needs no store.
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
