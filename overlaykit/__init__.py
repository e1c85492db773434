"""overlaykit: a program's own view of the machine.

The house, from the top: `cli` asks `views`; `views` joins `fuse` (the mount), `namespace` (the
processes) and `layers` (where files come from), which never import one another; below them `overlay`
decides what a path means, and `_native` makes the system calls. A room imports only from below.
Start reading at `overlaykit.overlay`.
"""

__version__ = "0.1.0"
