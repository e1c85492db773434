"""A network namespace for a test, with an uplink, servers and name servers; it runs a command there.

As a program: run the command in the arguments while the servers run.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from typing import Final

from ..views.user import TestUser, command

OUTSIDE: Final = "203.0.113.5"
"""An address of no loopback network, of which a view knows nothing."""
OWN: Final = "198.51.100.1"
GATEWAY: Final = "198.51.100.254"
PORT: Final = 8080
"""A server answers "reached" there, on every address."""
DNS: Final = 53
"""Name servers on OUTSIDE and on a loopback address know OUTSIDE by every name."""

_ARRANGE: Final = f"""
ip link set lo up
ip link add uplink type veth peer name other
ip addr add {OWN}/24 dev uplink
ip link set uplink up
ip link set other up
ip addr add {OUTSIDE}/32 dev lo
echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
"""
_ROUTE: Final = f"ip route add default via {GATEWAY}\n"


def connected(
    user: TestUser,
    *arguments: str,
    nameserver: str = OUTSIDE,
    route: bool = True,
    arrange: str = "",
    path: str | None = None,
    client: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run overlaykit on such a machine.

    Args:
      arrange: a shell command before, as root.
      path: its PATH.
      client: a Python program that runs overlaykit, by its arguments.
    """
    become: list[str] = []
    resume: list[str] = []
    if not user.is_root:
        ids = [f"--map-user={os.getuid()}", f"--map-group={os.getgid()}"]
        become = ["--user", *ids, "--keep-caps"]
        resume = ["setpriv", "--ambient-caps=-all", "--inh-caps=-all"]
    resolver = user.write(user.path("resolv.conf"), f"nameserver {nameserver}\n")
    script = (
        f"{_ARRANGE}{_ROUTE if route else ''}mount --bind {resolver} /etc/resolv.conf\n{arrange}\n"
    )
    driver = [sys.executable, "-P", "-m", "tests.cli.uplink"]
    program = [] if client is None else [sys.executable, "-c", client]
    environment = [] if path is None else ["env", f"PATH={path}"]
    shell = ["sh", "-euc", script + 'exec "$@"', "sh"]
    launch = [*resume, *driver, *program, *environment, command(), *arguments]
    return subprocess.run(
        ["unshare", "--mount", "--net", *become, *shell, *launch],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


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
