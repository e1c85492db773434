"""Ports that a test chooses itself. One that the kernel chooses is another process's as soon as it is closed."""

from __future__ import annotations

import contextlib
import os
import random
import socket


def unused_port() -> int:
    """A TCP port of the loopback address, and the one below: unused, and of none that the kernel chooses (ip(7))."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first, last = map(int, file.read().split())
    others = [*range(10000, first), *range(last + 1, 65536)]
    chance = random.Random(os.urandom(8))
    while True:
        port: int = chance.choice(others)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for one in (port - 1, port):
                stack.enter_context(socket.create_server(("127.0.0.1", one)))
            return port
