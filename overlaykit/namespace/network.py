"""The view's loopback interface, and the host's side of published ports."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from typing import Final

import msgspec

from overlaykit.errors import Error
from overlaykit.namespace.ports import Port
from overlaykit.namespace.spec import LaunchSpec

UNPRIVILEGED: Final = "/proc/sys/net/ipv4/ip_unprivileged_port_start"

_SIOCSIFFLAGS: Final = 0x8914
"""netdevice(7), linux/sockios.h."""
_IFF_UP: Final = 1


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


def listen(spec: LaunchSpec) -> list[tuple[Port, socket.socket]]:
    """Listen on the host's side of every published port, or on none.

    Returns: each port, with the bound number as `host`, and its listening socket (close-on-exec).

    Raises:
      PortInUse, PortPrivileged, AddressUnknown, PortsNeedPrivateNetwork: see their messages.
      OSError: as bind(2) and listen(2).
    """
    if spec.ports and spec.network != "private":
        raise PortsNeedPrivateNetwork(spec.ports[0], spec.network)
    listeners: list[tuple[Port, socket.socket]] = []
    try:
        for port in spec.ports:
            listener = _listen(port)
            bound = listener.getsockname()[1]
            listeners.append((msgspec.structs.replace(port, host=bound), listener))
    except BaseException:
        for _, listener in listeners:
            listener.close()
        raise
    return listeners


def raise_loopback() -> None:
    """Bring up the loopback interface of this network namespace; the kernel assigns its addresses.

    By ioctl(2) and not by netlink: importing pyroute2 takes 90 ms (measured).

    Raises:
      OSError: as ioctl(2).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def _listen(port: Port) -> socket.socket:
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    datagrams = port.protocol == "udp"
    listener = socket.socket(family, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM)
    try:
        if not datagrams:  # of UDP sockets it lets two have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((port.address, port.host))
        if not datagrams:
            listener.listen(socket.SOMAXCONN)
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
