"""An HTTP server that runs until its standard input ends.

Arguments: the port, 0 for any, and the address. Output: "ready", then the port. It serves persistent connections with
one fixed response; the request BULK gets much data instead. Run by path, so that it does not import overlaykit.
"""

from __future__ import annotations

import selectors
import socket
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024
BULK = b"GET /bulk HTTP/1.1\r\nHost: view\r\n\r\n"
BULK_BYTES = 1 << 28
_END = b"\r\n\r\n"
_PIECE = bytes(1 << 20)


def main() -> None:
    with (
        selectors.DefaultSelector() as selector,
        socket.create_server((sys.argv[2], int(sys.argv[1])), backlog=512) as listener,
    ):
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print("ready", listener.getsockname()[1], sep="\n", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(connection, selectors.EVENT_READ)
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    if not serve(key.fileobj):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()


def serve(connection: socket.socket) -> bool:
    """Respond to a request, which arrives in one piece; false at the end of the connection."""
    try:
        request = connection.recv(65536)
        if request == BULK:
            for _ in range(BULK_BYTES // len(_PIECE)):
                connection.sendall(_PIECE)
        elif request.endswith(_END):
            connection.sendall(ANSWER)
    except ConnectionError:
        return False
    return bool(request)


if __name__ == "__main__":
    main()
