"""pyfuse3's session with the kernel. There is one per process.

With `operations` the only module that imports pyfuse3; `patches` says what is changed in it, and why.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyfuse3

from overlaykit import _native
from overlaykit.fuse import patches

if TYPE_CHECKING:
    from overlaykit.fuse.operations import Operations
    from overlaykit.fuse.poller import Poller


class Connection:
    """A session that is not open yet.

    `device`: the descriptor of /dev/fuse once it is open. `passes_through`: whether the kernel reads and writes files
    itself, known once INIT is answered.
    """

    def __init__(self, operations: Operations, poller: Poller) -> None:
        patches.replace_trio(pyfuse3, poller)
        self._operations = operations
        self.device = -1
        self.passes_through = False

    def open(self, device: int) -> None:
        """Open the session on a descriptor of /dev/fuse, which is taken over: libfuse accepts it as /dev/fd/N."""
        self.device = device
        pyfuse3.init(self._operations, f"/dev/fd/{device}", set())

    def negotiate(self, *, wants_passthrough: bool) -> None:
        """Answer INIT. Requires: the session is open. Raises: OSError."""
        acl = self._operations.enable_acl
        agreed = _native.begin_session(self.device, acl, wants_passthrough)
        self.passes_through = bool(agreed & _native.FUSE_PASSTHROUGH)
        # The plane reads until there is no request.
        os.set_blocking(self.device, False)

    async def serve(self) -> None:
        """Answer requests until the mount is gone, or `terminate`. Raises ConnectionAbortedError (in a group)."""
        await pyfuse3.main()

    def terminate(self) -> None:
        """End `serve` once the requests under way are answered."""
        pyfuse3.terminate()

    def close(self) -> None:
        """Close the descriptor. It does not unmount."""
        pyfuse3.close(unmount=False)
