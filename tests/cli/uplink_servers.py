"""The servers of `uplink`, as a program: run the command in the arguments while they run.

It imports nothing of the tests: each test of an uplink starts it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from typing import Final

OUTSIDE: Final = "203.0.113.5"
"""An address of no loopback network, of which a view knows nothing."""
PORT: Final = 8080
"""A server answers "reached" there, on every address."""
DNS: Final = 53
"""Name servers on OUTSIDE and on a loopback address know OUTSIDE by every name."""


def _serve(listener: socket.socket) -> None:
    while True:
        client, _ = listener.accept()
        client.sendall(b"reached")
        client.close()


def _resolve(server: socket.socket) -> None:
    """Answer questions for an address (RFC 1035, 4.1); others have no answer."""
    while True:
        question, client = server.recvfrom(512)
        end = question.index(b"\0", 12) + 5
        is_address = question[end - 4 : end - 2] == b"\0\1"
        reply = question[:2] + b"\x81\x80\0\1" + bytes((0, is_address)) + bytes(4)
        reply += question[12:end]
        if is_address:
            reply += b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(OUTSIDE)
        server.sendto(reply, client)


def main() -> int:
    """Serve, and run the command."""
    tcp = socket.create_server(("0.0.0.0", PORT))
    threading.Thread(target=_serve, args=(tcp,), daemon=True).start()
    for address in "127.0.0.1", OUTSIDE:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((address, DNS))
        threading.Thread(target=_resolve, args=(udp,), daemon=True).start()
    return subprocess.call(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
