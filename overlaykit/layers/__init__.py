"""The sources of layers: a directory, the host's root, .deb packages, an archive; and the store.

May import: `_native`, `beneath`, `errors`, `health`, `mountinfo`, `privilege`, `rmtree`; never `fuse`, `namespace` or
`overlay`. Start reading at `resolve` (`-l`), then `source` (`layer add`) and `store`. `tree` creates the files of a new
layer, for `directory` and for `extract`, which reads archives and packages.
"""

from __future__ import annotations

from overlaykit.layers.host import host
from overlaykit.layers.layer import Hold, Layer
from overlaykit.layers.resolve import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlaykit.layers.store import Store, StoredLayer

__all__ = ["Hold", "Layer", "Store", "StoredLayer", "host", "resolve"]


def __getattr__(name: str) -> object:
    # Late: a view of the host needs no store.
    if name in ("Store", "StoredLayer"):
        from overlaykit.layers import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
