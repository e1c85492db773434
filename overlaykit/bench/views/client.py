"""The client of `server`: asks over and over, and says how long it took."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from typing import Final

from overlaykit.bench.systems.processes import PATIENCE
from overlaykit.bench.views.server import ANSWER

_HOST: Final = "127.0.0.1"
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: view\r\n\r\n"


def keep_asking(port: int, requests: int, connections: int) -> float:
    """Seconds for so many requests in all, over so many connections, each asking again once it has its answer.

    Raises OSError: a connection fails or ends, or there is no answer.
    """
    sockets = [socket.create_connection((_HOST, port), PATIENCE) for _ in range(connections)]
    try:
        with selectors.DefaultSelector() as selector:
            missing = dict.fromkeys(sockets, 0)
            for connection in sockets:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
            began = time.perf_counter()
            asked = answered = 0
            for connection in sockets[:requests]:
                _ask(connection)
                missing[connection] = len(ANSWER)
                asked += 1
            while answered < requests:
                for connection in _readable(selector):
                    missing[connection] -= _received(connection, missing[connection])
                    if missing[connection]:
                        continue
                    answered += 1
                    if asked < requests:
                        _ask(connection)
                        missing[connection] = len(ANSWER)
                        asked += 1
            return time.perf_counter() - began
    finally:
        for connection in sockets:
            connection.close()


def connect_anew(port: int, requests: int) -> float:
    """Seconds for so many requests, one after the other, each over a connection of its own. Raises OSError."""
    began = time.perf_counter()
    for _ in range(requests):
        with socket.create_connection((_HOST, port), PATIENCE) as connection:
            _ask(connection)
            missing = len(ANSWER)
            while missing:
                missing -= _received(connection, missing)
    return time.perf_counter() - began


def _ask(connection: socket.socket) -> None:
    connection.sendall(_REQUEST)


def _readable(selector: selectors.BaseSelector) -> list[socket.socket]:
    ready = selector.select(PATIENCE)
    if not ready:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    return [key.fileobj for key, _ in ready if isinstance(key.fileobj, socket.socket)]


def _received(connection: socket.socket, most: int) -> int:
    """How many bytes have come."""
    part = len(connection.recv(most))
    if not part:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    return part
