"""Where layers come from: a directory, the host's root, .deb packages, an archive; and the store.

May import: `overlaykit._native`, `overlaykit.errors`; never `fuse`, `namespace` or `overlay`.
Start reading at `source` (what a name means), then `store`.
"""
