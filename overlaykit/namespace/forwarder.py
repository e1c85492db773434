"""The port forwarder: a process that copies bytes between sockets of the host and of the view.

    python -I -m overlaykit.namespace.forwarder LIFELINE LISTENER:PORT...

The monitor starts it in the view's network namespace, with listening sockets bound outside. A socket belongs to the
namespace it was made in, so the forwarder accepts connections on the host and connects in the view. At end of file on
LIFELINE it accepts no more connections, delivers the bytes that the view has sent, and ends.
"""

from __future__ import annotations

import resource
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import trio

from overlaykit.namespace import capabilities

DRAIN_SECONDS: Final = 2
"""The time that a client has to read the last bytes of an ended view."""


async def forward(lifeline: int, listeners: Sequence[tuple[socket.socket, int]]) -> None:
    """Forward each connection of a listener to its port on 127.0.0.1, until the lifeline closes."""
    ended = trio.Event()
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            for listener, port in listeners:
                accepting.start_soon(
                    partial(
                        trio.serve_listeners,
                        partial(_connect, port=port, ended=ended),
                        [trio.SocketListener(trio.socket.from_stdlib_socket(listener))],
                        handler_nursery=connections,
                    )
                )
            await trio.lowlevel.wait_readable(lifeline)
            accepting.cancel_scope.cancel()
        ended.set()
        connections.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS


async def _connect(client: trio.SocketStream, *, port: int, ended: trio.Event) -> None:
    """Forward one connection: each direction is closed when its sender closes it, both are reset if one is."""
    view_socket = trio.socket.socket()
    async with client, trio.SocketStream(view_socket) as view:
        try:
            await view_socket.connect(("127.0.0.1", port))
            await _copy_both(client, view, ended)
        # A refusal or a reset is passed on to both ends.
        except* (OSError, trio.BrokenResourceError):
            for stream in (client, view):
                _reset_on_close(stream)


async def _copy_both(client: trio.SocketStream, view: trio.SocketStream, ended: trio.Event) -> None:
    upstream = trio.CancelScope()

    async def copy_in() -> None:
        with upstream:
            await _copy(client, view)

    async def stop_copying_in() -> None:
        await ended.wait()
        upstream.cancel()

    async with trio.open_nursery() as watching:
        watching.start_soon(stop_copying_in)
        async with trio.open_nursery() as copying:
            copying.start_soon(copy_in)
            copying.start_soon(_copy, view, client)
        watching.cancel_scope.cancel()


async def _copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    async for chunk in source:
        await sink.send_all(chunk)
    await sink.send_eof()


def _reset_on_close(stream: trio.SocketStream) -> None:
    # Lingering for 0 s: close(2) sends RST (socket(7)).
    with suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def main(arguments: Sequence[str]) -> None:
    """Drop all capabilities and forward the ports; `arguments` as in the module's docstring."""
    capabilities.restrict(frozenset())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # Two descriptors per connection.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lifeline, *pairs = arguments
    listeners = []
    for pair in pairs:
        listener, _, port = pair.partition(":")
        listeners.append((socket.socket(fileno=int(listener)), int(port)))
    trio.run(forward, int(lifeline), listeners)


if __name__ == "__main__":
    main(sys.argv[1:])
