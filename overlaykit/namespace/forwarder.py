"""Published ports: the process that carries bytes between the host's sockets and the view's.

    python -I -m overlaykit.namespace.forwarder LIFELINE LISTENER:PORT...

The monitor starts it inside the view's network namespace, with listening sockets that were bound outside; a socket
belongs to the namespace it was made in, so it accepts here and connects there. It ends when nobody holds the
other end of the LIFELINE any more: it accepts nothing new, and what the view had sent by then is still delivered.
The only process of overlaykit's namespaces that runs trio.
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
"""How long a client may take to read what a view that has ended had sent it."""


async def forward(lifeline: int, listeners: Sequence[tuple[socket.socket, int]]) -> None:
    """Carry every connection to a listener to its port on 127.0.0.1, until the lifeline closes."""
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
    """One connection: both directions at once, each closed when its sender closes it, both reset if either is."""
    view_socket = trio.socket.socket()
    async with client, trio.SocketStream(view_socket) as view:
        try:
            await view_socket.connect(("127.0.0.1", port))
            await _carry_both(client, view, ended)
        except* (OSError, trio.BrokenResourceError):  # refused, or reset: say it to both
            for stream in (client, view):
                _reset_on_close(stream)


async def _carry_both(
    client: trio.SocketStream, view: trio.SocketStream, ended: trio.Event
) -> None:
    upstream = trio.CancelScope()

    async def carry_in() -> None:
        with upstream:
            await _carry(client, view)

    async def stop_carrying_in() -> None:
        await ended.wait()
        upstream.cancel()

    async with trio.open_nursery() as watching:
        watching.start_soon(stop_carrying_in)
        async with trio.open_nursery() as carrying:
            carrying.start_soon(carry_in)
            carrying.start_soon(_carry, view, client)
        watching.cancel_scope.cancel()


async def _carry(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    async for chunk in source:
        await sink.send_all(chunk)
    await sink.send_eof()


def _reset_on_close(stream: trio.SocketStream) -> None:
    with suppress(OSError):  # lingering for 0 s: close(2) then sends RST (socket(7))
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def main(arguments: Sequence[str]) -> None:
    """Run as the monitor starts it, with no capability left: everything privileged was done before."""
    capabilities.restrict(frozenset())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # two descriptors per connection
    lifeline, *pairs = arguments
    listeners = []
    for pair in pairs:
        listener, _, port = pair.partition(":")
        listeners.append((socket.socket(fileno=int(listener)), int(port)))
    trio.run(forward, int(lifeline), listeners)


if __name__ == "__main__":
    main(sys.argv[1:])
