"""The protocol of a daemon's control socket, and its client: one JSON line as request, one as reply.

The socket lies in a private directory of the user; any process that can connect may send requests. `control_server` is
the daemon's side.
"""

from __future__ import annotations

import errno
import os

from overlaykit import codec, sockets
from overlaykit.fuse.statistics import Latencies
from overlaykit.record import Record


class Explain(Record):
    """Which layer provides `path`, an absolute path in the mount."""

    path: str


class Count(Record):
    """How much the daemon holds in memory, and how many requests it has had."""


class Measure(Record):
    """How many requests the daemon has had of each kind, and how long they took."""


class End(Record):
    """End the connection with the kernel, even if files are in use: users of the mount get ENOTCONN."""


class LayerHitReply(Record):
    """One layer's part: see `overlaykit.overlay.explain.LayerHit`."""

    layer: str
    path: str
    kind: str
    role: str


class Explained(Record):
    """See `overlaykit.overlay.explain.Explanation`."""

    path: str
    target: str | None
    hits: tuple[LayerHitReply, ...]


class Counted(Record):
    """`held`: numbers of nodes, nlookup, open files and directory descriptors.

    `requests`: numbers by kind, of those that reached Python. `answered`: how many the data plane has answered.
    """

    held: dict[str, int]
    requests: dict[str, int]
    answered: int


class Measured(Record):
    """Requests by kind, those answered by Python and those by the data plane."""

    python: dict[str, Latencies]
    native: dict[str, Latencies]


class Ending(Record):
    """The connection ends after this reply."""


class RequestRefused(Record):
    """The request has failed with an OSError: its errno and path."""

    errno: int
    path: str


_PIECE = 1 << 16
"""Bytes."""

Request = Explain | Count | Measure | End
Reply = Explained | Counted | Measured | Ending | RequestRefused


def ask(
    path: str, request: Request, *, seconds: float | None = None
) -> Explained | Counted | Measured | Ending:
    """Send a request to the daemon whose socket is at `path`.

    Raises: OSError of a `RequestRefused`; ECONNREFUSED: the daemon has ended; TimeoutError: no reply in `seconds`.
    """
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.sendall(codec.encode(request) + b"\n")
        line = b""
        while not line.endswith(b"\n") and (more := connection.recv(_PIECE)):
            line += more
    if not line:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET), path)
    reply: Reply = codec.decode(line, Reply)
    if isinstance(reply, RequestRefused):
        raise OSError(reply.errno, os.strerror(reply.errno), reply.path)
    return reply
