"""The host's side of published ports."""

from __future__ import annotations

import errno

from overlaykit import sockets
from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.namespace.ports import Port
    from overlaykit.namespace.spec import LaunchSpec

_IP_PKTINFO: Final = 8
"""linux/in.h"""

UNPRIVILEGED: Final = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


class PortInUse(Error):
    message = (
        "-p {0}: port {1} of {2} is in use on this machine; publish another, or stop what "
        "listens there"
    )


class PortPrivileged(Error):
    message = (
        "-p {0}: port {1} needs root here; publish one from {2} up, or lower "
        "net.ipv4.ip_unprivileged_port_start"
    )


class AddressUnknown(Error):
    message = (
        "-p {0}: {1} is no address of this machine; publish on 127.0.0.1, or on 0.0.0.0 for all "
        "of them"
    )


class PortsNeedPrivateNetwork(Error):
    message = (
        "-p {0}: nothing can be published with --network {1}; leave -p out, or take --network "
        "private"
    )


def listen(spec: LaunchSpec) -> list[tuple[Port, sockets.socket]]:
    """Listen on the host's side of every published port, or on none.

    Returns: each port, with the bound number as `host`, and its listening socket (close-on-exec).

    Raises:
      PortInUse, PortPrivileged, AddressUnknown, PortsNeedPrivateNetwork: see their messages.
      OSError: as bind(2) and listen(2).
    """
    if spec.ports and spec.network in ("host", "none"):
        raise PortsNeedPrivateNetwork(spec.ports[0], spec.network)
    listeners: list[tuple[Port, sockets.socket]] = []
    try:
        for port in spec.ports:
            listener = _listen(port)
            bound = listener.getsockname()[1]
            listeners.append((port.replace(host=bound), listener))
    except BaseException:
        for _, listener in listeners:
            listener.close()
        raise
    return listeners


def _listen(port: Port) -> sockets.socket:
    """A socket with the options that native/ports.c needs: a datagram comes with the address that it was sent to."""
    family = sockets.AF_INET6 if ":" in port.address else sockets.AF_INET
    datagrams = port.protocol == "udp"
    listener = sockets.socket(family, sockets.SOCK_DGRAM if datagrams else sockets.SOCK_STREAM)
    try:
        if not datagrams:  # of UDP sockets it lets two have one port
            listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        if family == sockets.AF_INET6:
            listener.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, 1)
        if not datagrams:  # accepted sockets inherit it
            listener.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        elif family == sockets.AF_INET6:
            listener.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_RECVPKTINFO, 1)
        else:
            listener.setsockopt(sockets.IPPROTO_IP, _IP_PKTINFO, 1)
        listener.setblocking(False)
        listener.bind((port.address, port.host))
        if not datagrams:
            listener.listen(sockets.SOMAXCONN)
    except OSError as error:
        listener.close()
        match error.errno:
            case errno.EADDRINUSE:
                raise PortInUse(port, port.host, port.address) from None
            case errno.EACCES:
                raise PortPrivileged(port, port.host, _first_unprivileged()) from None
            case errno.EADDRNOTAVAIL:
                raise AddressUnknown(port, port.address) from None
        raise
    return listener


def _first_unprivileged() -> int:
    with open(UNPRIVILEGED, "rb") as value:
        return int(value.read())
