"""The daemon's side of its control socket: answers `control`'s questions, beside the kernel's."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from overlaykit.fuse.control import (
    Count,
    Counted,
    Explain,
    Explained,
    Refused,
    Reply,
    Request,
    SightAnswer,
)
from overlaykit.overlay.explain import explain

if TYPE_CHECKING:
    from overlaykit.fuse.operations import Operations

_LONGEST_LINE: Final = 1 << 16


async def serve(listener: trio.SocketListener, operations: Operations) -> None:
    """Answer until cancelled."""

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
