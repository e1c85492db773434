"""overlaykit: a program's own view of the machine.

    from overlaykit import View

    with View(["py27", "host"]) as view:
        status = view.run(["python", "--version"]).returncode

    with Client("web") as client:  # of a view that runs
        client.explain("/etc/issue")

The rooms, from the top: `cli` calls `client` and `views`; `client` asks what runs; `views` joins `fuse` (the mount),
`namespace` (the processes) and `layers` (the sources of files), which never import one another; `changes` compares
layers; `overlay` decides what a path means. On the ground floor are `_native` (system calls), `beneath`, `codec`,
`errors`, `health`, `lean`, `mountinfo`, `privilege`, `procfs`, `record`, `rmtree`, `scope`, `signals`, `sockets` and
`standard`. A room imports only from below. Start reading at `overlaykit.overlay`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.client import Client
    from overlaykit.views import View

__all__ = ["Client", "View"]
__version__: Final = "0.1.0"


def __getattr__(name: str) -> object:
    # Late: a daemon loads this package too, and has no use for views.
    if name == "View":
        from overlaykit.views import View

        return View
    if name == "Client":
        from overlaykit.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
