"""The mount: pyfuse3's requests answered by `overlaykit.overlay`, and the process that answers them.

May import: `overlaykit.overlay`, `overlaykit._native` and the modules of that floor; never `namespace` or `layers`.
Start reading at `operations` (one request each), then `daemon` (the process around them).
"""
