"""The daemon's control socket: one JSON line in, one JSON line out.

The asker is whoever can reach the socket, which lies in a directory of the user's own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import trio

    from overlaykit.fuse.operations import Operations

_LONGEST_LINE: Final = 1 << 16


class Explain(msgspec.Struct, frozen=True, tag="explain"):
    """Which layer answers for `path`, an absolute one in the mount."""

    path: str


class Count(msgspec.Struct, frozen=True, tag="count"):
    """What the daemon holds and has been asked."""


class SightAnswer(msgspec.Struct, frozen=True):
    """One layer's part: see `overlaykit.overlay.explain.Sight`."""

    layer: str
    path: str
    kind: str
    role: str


class Explained(msgspec.Struct, frozen=True, tag="explained"):
    """See `overlaykit.overlay.explain.Explanation`."""

    path: str
    target: str | None
    sights: tuple[SightAnswer, ...]


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """`held`: nodes, lookups, open files and places in memory. `requests`: how many of each kind have come."""

    held: dict[str, int]
    requests: dict[str, int]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """An OSError's number and path."""

    errno: int
    path: str


Request = Explain | Count
Reply = Explained | Counted | Refused


def ask(path: str, request: Request) -> Explained | Counted:
    """Ask the daemon whose socket is at `path`. Raises OSError: what it answered, or ECONNREFUSED if it is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        connection.sendall(msgspec.json.encode(request) + b"\n")
        with connection.makefile("rb") as file:
            line = file.readline()
    if not line:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET), path)
    reply: Reply = msgspec.json.decode(line, type=Reply)
    if isinstance(reply, Refused):
        raise OSError(reply.errno, os.strerror(reply.errno), reply.path)
    return reply


async def serve(listener: trio.SocketListener, operations: Operations) -> None:
    """Answer until cancelled."""
    import trio

    async def answer(stream: trio.SocketStream) -> None:
        line = b""
        async with stream:
            while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
                chunk = await stream.receive_some(_LONGEST_LINE)
                if not chunk:
                    return
                line += chunk
            await stream.send_all(_answer(line, operations) + b"\n")

    async def guarded(stream: trio.SocketStream) -> None:
        # An asker that left, or asked nonsense, loses its connection; the daemon stays.
        with contextlib.suppress(trio.BrokenResourceError, msgspec.MsgspecError):
            await answer(stream)

    await trio.serve_listeners(guarded, [listener])


def _answer(line: bytes, operations: Operations) -> bytes:
    from overlaykit.overlay.explain import explain

    request = msgspec.json.decode(line, type=Request)
    reply: Reply
    try:
        match request:
            case Explain(path=path):
                found = explain(operations.filesystem.tree, os.fsencode(path))
                sights = (SightAnswer(s.layer, s.path, s.kind, s.role) for s in found.sights)
                reply = Explained(found.path, found.target, tuple(sights))
            case Count():
                reply = Counted(operations.filesystem.counts(), dict(operations.requests))
    except OSError as error:
        reply = Refused(error.errno or 0, str(error.filename or ""))
    return msgspec.json.encode(reply)
