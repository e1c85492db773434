"""The daemon's side of the control socket: replies to `control`'s requests between those of the kernel."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Final

import trio

from overlaykit import codec
from overlaykit.fuse.control import (
    Count,
    Counted,
    End,
    Ending,
    Explain,
    Explained,
    LayerHitReply,
    Measure,
    Measured,
    Reply,
    Request,
    RequestRefused,
)
from overlaykit.overlay.explain import explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlaykit.fuse.operations import Operations

log: Final = logging.getLogger(__name__)

_LONGEST_LINE: Final = 1 << 16
"""Bytes."""


async def serve(
    listener: trio.SocketListener, operations: Operations, end: Callable[[], None]
) -> None:
    """Reply to requests until cancelled. `end` ends the connection with the kernel."""

    async def answer(stream: trio.SocketStream) -> None:
        line = b""
        async with stream:
            while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
                chunk = await stream.receive_some(_LONGEST_LINE)
                if not chunk:
                    return
                line += chunk
            request: Request = codec.decode(line, Request)
            if isinstance(request, End):
                # Even if the client has gone and gets no reply.
                end()
            await stream.send_all(_answer(request, operations) + b"\n")

    async def guarded(stream: trio.SocketStream) -> None:
        # A client that has gone, or whose request is invalid, loses its connection; the daemon stays.
        try:
            await answer(stream)
        except (trio.BrokenResourceError, ValueError):
            pass
        except Exception:
            log.exception("a control request failed")

    await trio.serve_listeners(guarded, [listener])


def _answer(request: Request, operations: Operations) -> bytes:
    reply: Reply
    try:
        match request:
            case Explain(path=path):
                found = explain(operations.filesystem, os.fsencode(path))
                hits = (LayerHitReply(s.layer, s.path, s.kind, s.role) for s in found.hits)
                reply = Explained(found.path, found.target, tuple(hits))
            case Count():
                reply = Counted(operations.held(), dict(operations.requests), operations.answered())
            case Measure():
                native = {} if operations.plane is None else operations.plane.latencies()
                reply = Measured(operations.clock.latencies(), native)
            case End():
                reply = Ending()
    except OSError as error:
        reply = RequestRefused(error.errno or errno.EIO, _filename(error))
    except ValueError:
        # A path with a NUL.
        reply = RequestRefused(errno.EINVAL, "")
    return codec.encode(reply)


def _filename(error: OSError) -> str:
    return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
