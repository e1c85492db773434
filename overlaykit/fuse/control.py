"""What can be asked on a daemon's control socket: one JSON line in, one JSON line out.

Any process that can reach the socket may ask; it lies in a directory of the user's own. `control_server` answers.
"""

from __future__ import annotations

import errno
import os
import socket

import msgspec

from overlaykit import codec


class Explain(msgspec.Struct, frozen=True, tag="explain"):
    """Which layer answers for `path`, an absolute one in the mount."""

    path: str


class Count(msgspec.Struct, frozen=True, tag="count"):
    """What the daemon holds and has been asked."""


class End(msgspec.Struct, frozen=True, tag="end"):
    """End the connection with the kernel, whatever is in use: users of the mount get ENOTCONN."""


class LayerHitReply(msgspec.Struct, frozen=True):
    """One layer's part: see `overlaykit.overlay.explain.LayerHit`."""

    layer: str
    path: str
    kind: str
    role: str


class Explained(msgspec.Struct, frozen=True, tag="explained"):
    """See `overlaykit.overlay.explain.Explanation`."""

    path: str
    target: str | None
    hits: tuple[LayerHitReply, ...]


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """`held`: nodes, lookups, open files and places in memory. `requests`: how many of each kind have come."""

    held: dict[str, int]
    requests: dict[str, int]


class Ending(msgspec.Struct, frozen=True, tag="ending"):
    """The connection ends after this answer."""


class RequestRefused(msgspec.Struct, frozen=True, tag="request-refused"):
    """An OSError's number and path."""

    errno: int
    path: str


Request = Explain | Count | End
Reply = Explained | Counted | Ending | RequestRefused


def ask(
    path: str, request: Request, *, seconds: float | None = None
) -> Explained | Counted | Ending:
    """Ask the daemon whose socket is at `path`.

    Raises OSError: what it answered, ECONNREFUSED if it is gone, TimeoutError if it takes longer than `seconds`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.sendall(codec.encode(request) + b"\n")
        with connection.makefile("rb") as file:
            line = file.readline()
    if not line:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET), path)
    reply: Reply = codec.decode(line, Reply)
    if isinstance(reply, RequestRefused):
        raise OSError(reply.errno, os.strerror(reply.errno), reply.path)
    return reply
