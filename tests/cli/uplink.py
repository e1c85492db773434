"""A network namespace for a test, with an uplink, servers and name servers; it runs a command there."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from ..views.user import TestUser, command
from . import uplink_servers
from .uplink_servers import OUTSIDE, PORT

__all__ = ["GATEWAY", "OUTSIDE", "OWN", "PORT", "connected"]

OWN: Final = "198.51.100.1"
GATEWAY: Final = "198.51.100.254"
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
    driver = [sys.executable, uplink_servers.__file__]
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
    )
