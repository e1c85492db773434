"""The client of `server`: sends requests and measures the time."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from typing import Final

from overlaykit.bench.systems.processes import TIMEOUT_SECONDS
from overlaykit.bench.views.server import ANSWER, BULK, BULK_BYTES

_HOST: Final = "127.0.0.1"
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: view\r\n\r\n"


def timed_requests(port: int, requests: int, connections: int) -> float:
    """Send requests over persistent connections, one at a time on each. Returns: seconds.

    Raises: OSError if a connection fails or ends, or a response takes longer than TIMEOUT_SECONDS.
    """
    sockets = [socket.create_connection((_HOST, port), TIMEOUT_SECONDS) for _ in range(connections)]
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


def timed_new_connections(port: int, requests: int) -> float:
    """Send requests one after another, each over a new connection. Returns: seconds. Raises: OSError."""
    began = time.perf_counter()
    for _ in range(requests):
        with socket.create_connection((_HOST, port), TIMEOUT_SECONDS) as connection:
            _ask(connection)
            missing = len(ANSWER)
            while missing:
                missing -= _received(connection, missing)
    return time.perf_counter() - began


def timed_bulk(port: int) -> float:
    """Receive BULK_BYTES over one connection. Returns: seconds. Raises: OSError."""
    buffer = memoryview(bytearray(1 << 20))
    with socket.create_connection((_HOST, port), TIMEOUT_SECONDS) as connection:
        began = time.perf_counter()
        connection.sendall(BULK)
        missing = BULK_BYTES
        while missing:
            missing -= _some(connection.recv_into(buffer[:missing]))
        return time.perf_counter() - began


def _ask(connection: socket.socket) -> None:
    connection.sendall(_REQUEST)


def _readable(selector: selectors.BaseSelector) -> list[socket.socket]:
    ready = selector.select(TIMEOUT_SECONDS)
    if not ready:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    return [key.fileobj for key, _ in ready if isinstance(key.fileobj, socket.socket)]


def _received(connection: socket.socket, most: int) -> int:
    """Receive at most `most` bytes: their number."""
    return _some(len(connection.recv(most)))


def _some(received: int) -> int:
    if not received:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    return received
