"""pyfuse3's session with the kernel. There is one per process.

With `operations` the only module that imports pyfuse3; `patches` says what is changed in it, and why.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyfuse3

from overlaykit.fuse import patches

if TYPE_CHECKING:
    from overlaykit.fuse.operations import Operations
    from overlaykit.fuse.poller import Poller


class Connection:
    """A session that is not open yet."""

    def __init__(self, operations: Operations, poller: Poller) -> None:
        patches.replace_trio(pyfuse3, poller)
        self._operations = operations
        self._handshake: patches.Handshake | None = None
        self.passes_through = False

    def open(self, device: int) -> None:
        """Open the session on a descriptor of /dev/fuse, which is taken over: libfuse accepts it as /dev/fd/N."""
        self._handshake = patches.Handshake(device)
        pyfuse3.init(self._operations, f"/dev/fd/{self._handshake.fd}", set())

    @property
    def device(self) -> int:
        """The descriptor of /dev/fuse. Requires: INIT is answered."""
        assert self._handshake is not None
        return self._handshake.fd

    async def negotiate(self, *, wants_passthrough: bool) -> bool:
        """Answer INIT. Requires: the session is open.

        Returns: whether the data plane may read the requests. Ensures: `passes_through` says whether passthrough was
        agreed on.
        """
        assert self._handshake is not None
        self.passes_through = await self._handshake.complete(
            pyfuse3.main, wants_passthrough=wants_passthrough
        )
        if not patches.is_libfuse_interposed():
            return False
        # The plane reads until there is no request.
        os.set_blocking(self._handshake.fd, False)
        return True

    async def serve(self) -> None:
        """Answer requests until the mount is gone, or `terminate`. Raises ConnectionAbortedError (in a group)."""
        await pyfuse3.main()

    def terminate(self) -> None:
        """End `serve` once the requests under way are answered."""
        pyfuse3.terminate()

    def close(self) -> None:
        """Close the descriptor. It does not unmount."""
        pyfuse3.close(unmount=False)
