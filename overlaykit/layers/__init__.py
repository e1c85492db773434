"""Where layers come from: a directory, the host's root, .deb packages, an archive; and the store.

May import: `overlaykit._native` and the modules of that floor (`errors`, `health`, `mountinfo`,
`privilege`, `rmtree`); never `fuse`, `namespace` or `overlay`.
Start reading at `resolve` (what `-l` means), then `source` (what `layer add` takes) and `store`; `tree` is where a
new layer's files are made, for `directory`, `extract` (of `archive` and `deb`) alike.
"""

from overlaykit.layers.host import host
from overlaykit.layers.layer import Hold, Layer
from overlaykit.layers.resolve import resolve
from overlaykit.layers.store import Store, StoredLayer

__all__ = ["Hold", "Layer", "Store", "StoredLayer", "host", "resolve"]
