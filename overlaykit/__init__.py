"""overlaykit: a program's own view of the machine.

    from overlaykit import View

    with View(["py27", "host"]) as view:
        status = view.run(["python", "--version"]).returncode

The rooms, from the top: `cli` calls `views`; `views` joins `fuse` (the mount), `namespace` (the processes) and
`layers` (the sources of files), which never import one another; `overlay` decides what a path means. On the ground
floor are `_native` (system calls), `beneath`, `codec`, `errors`, `health`, `mountinfo`, `privilege`, `procfs`,
`record`, `rmtree`, `scope`, `signals`, `sockets` and `standard`. A room imports only from below. Start reading at
`overlaykit.overlay`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.views import View

__all__ = ["View"]
__version__: Final = "0.1.0"


def __getattr__(name: str) -> object:
    # Late: a daemon loads this package too, and has no use for views.
    if name == "View":
        from overlaykit.views import View

        return View
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
