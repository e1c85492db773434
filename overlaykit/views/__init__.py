"""Views and mounts: where `layers`, `fuse` and `namespace` meet.

May import every room but `cli`. Start reading at `view` (layers + a mount + a launch), then `mounts` (a mount alone),
`options` (what `-o` takes), `unmounting` and `registry` (which of them are running).
"""

from overlaykit.views.mounts import mount
from overlaykit.views.options import parse_options
from overlaykit.views.registry import Registry, Running, explain
from overlaykit.views.unmounting import umount
from overlaykit.views.view import View

__all__ = ["Registry", "Running", "View", "explain", "mount", "parse_options", "umount"]
