"""The network "outbound": a program of the host's, pasta or slirp4netns, carries the view's connections outward.

It has a socket of its own on the host for each of them, so the view needs no privileges and no address. Nothing
reaches the view but by published ports, and the view does not reach the host's loopback addresses.
"""

from __future__ import annotations

import os

from overlaykit.errors import Error
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

TUN: Final = "/dev/net/tun"
"""The device of interfaces that programs serve. udev sets the mode 0666: the kernel checks all rights itself."""
INTERFACE: Final = "eth0"
"""The view's."""

_NETWORK: Final = ""
"""In arguments: the path of the view's network namespace (`Plan.connect`)."""
_READY: Final = 3
"""The descriptor of the program that tells when it is ready (`Plan.connect`)."""


class NoOutboundProgram(Error):
    message = (
        "--network outbound: neither pasta nor slirp4netns is installed; install the package passt or slirp4netns, or "
        "take --network host"
    )


class OutboundRefused(Error):
    message = "--network outbound: {0} cannot connect the view ({1}); see 'overlaykit doctor', or take --network host"


class TunRefused(Error):
    message = "--network outbound: {0} cannot be opened ({1}); as root, 'modprobe tun' and 'chmod 0666 {0}'"


class Program(Record, kw_only=True):
    """What connects a view."""

    argv: tuple[str, ...]
    forwarder: str | None = None
    """The address inside at which the program answers for the host's name server; None: at none."""


def _pasta(path: str) -> Program:
    forwarder = "169.254.1.1"  # podman's choice
    return Program(
        argv=(
            path,
            "--config-net",
            "--quiet",
            "--ns-ifname",
            INTERFACE,
            # Nothing of the host's loopback, and no port of either side on the other.
            "--no-map-gw",
            *("--tcp-ports", "none", "--udp-ports", "none"),
            *("--tcp-ns", "none", "--udp-ns", "none"),
            *("--dns-forward", forwarder),
            # It is in the user namespace already. As root it would become another user.
            *("--netns-only", "--runas", "0:0"),
            *("--netns", _NETWORK),
        ),
        forwarder=forwarder,
    )


def _slirp4netns(path: str) -> Program:
    return Program(
        argv=(
            path,
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            "--enable-sandbox",
            "--enable-seccomp",
            # It would reach every port of the host's name server, which may be on the host's loopback.
            "--disable-dns",
            f"--ready-fd={_READY}",
            "--netns-type=path",
            _NETWORK,
            INTERFACE,
        ),
    )


PROGRAMS: Final[dict[str, Callable[[str], Program]]] = {
    "pasta": _pasta,
    "slirp4netns": _slirp4netns,
}
"""In the order of preference."""


def installed() -> dict[str, str]:
    """The programs that are installed: the path of each."""
    found: dict[str, str] = {}
    for name in PROGRAMS:
        for directory in os.get_exec_path():
            path = os.path.join(directory, name)
            if os.path.isabs(path) and os.access(path, os.X_OK):
                found.setdefault(name, path)
    return found


def program() -> Program:
    """The program that connects a view. Raises: NoOutboundProgram, TunRefused."""
    found = installed()
    if not found:
        raise NoOutboundProgram
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise TunRefused(TUN, error.strerror) from None
    name, path = next(iter(found.items()))
    return PROGRAMS[name](path)


def refusal(subject: str, reason: str) -> OutboundRefused:
    """The error for a failure of the step "connect", whose subject has a line with the program, and what it said."""
    path, *said = subject.splitlines()
    # Without a system logger pasta says that as well.
    lines = [line for line in said if line.strip() and not line.startswith("Failed to send")]
    return OutboundRefused(os.path.basename(path), lines[-1].strip() if lines else reason)
