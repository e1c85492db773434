"""The launcher: a command in namespaces of its own, with a given mount as its root.

May import: `overlaykit._native`, `overlaykit.errors`; never `fuse`, `layers` or `overlay`.
Start reading at `launch`, which tells the order of the system calls.
"""
