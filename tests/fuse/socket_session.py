"""A daemon whose device is a socket: `python socket_session.py SOCKET UPPER WORK LOWER...`, with `SOCKET` a descriptor.

The process at the other end sends the requests of a kernel, each a message, and gets the replies.
"""

from __future__ import annotations

import os
import sys

import trio

from overlaykit.fuse import daemon_process
from overlaykit.fuse.spec import MountOptions
from overlaykit.overlay.filesystem import Filesystem
from overlaykit.overlay.opened import OpenedLayer
from overlaykit.overlay.stack import MergeOptions


def main(device: int, upper: str, work: str, *lowers: str) -> None:
    daemon_process.load()
    from overlaykit.fuse.connection import Connection
    from overlaykit.fuse.operations import Operations
    from overlaykit.fuse.poller import Poller

    os.umask(0)
    opened = [
        OpenedLayer(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), path)
        for path in (upper, work, *lowers)
    ]
    options = MountOptions(
        userxattr=True,
        data_plane=os.environ.get("DATA_PLANE") != "off",
        no_open="on" if os.environ.get("NO_OPEN") == "on" else "off",
    )
    filesystem = Filesystem(
        opened[2:], opened[0], opened[1], MergeOptions(userxattr=options.userxattr)
    )
    poller = Poller()
    operations = Operations(filesystem, options, poller)
    connection = Connection(operations, poller)
    connection.open(device)
    connection.negotiate(wants_passthrough=False)
    operations.begin_plane(is_kept=False)
    trio.run(connection.serve)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
