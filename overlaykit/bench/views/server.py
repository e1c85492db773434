"""An HTTP server on the loopback interface that runs until its standard input ends.

Argument: the port, 0 for any. Output: "ready", then the port. It serves persistent connections with one fixed response.
Run by path, so that it does not import overlaykit.
"""

from __future__ import annotations

import selectors
import socket
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024
_END = b"\r\n\r\n"


def main() -> None:
    with (
        selectors.DefaultSelector() as selector,
        socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=512) as listener,
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
        if request.endswith(_END):
            connection.sendall(ANSWER)
    except ConnectionError:
        return False
    return bool(request)


if __name__ == "__main__":
    main()
