"""The network "outbound": a program of the host's, pasta or slirp4netns, carries the view's connections outward.

It has a socket of its own on the host for each of them, so the view needs no privileges and no address. Nothing
reaches the view but by published ports, and the view does not reach the host's loopback addresses.
"""

from __future__ import annotations

import os
import sys

from overlaykit.errors import Error
from overlaykit.namespace.plan import REQUEST_BYTES
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Protocol

    class _Maker(Protocol):
        def __call__(self, path: str, interface: str, *, on_use: bool) -> Program: ...


TUN: Final = "/dev/net/tun"
"""The device of interfaces that programs serve. udev sets the mode 0666: the kernel checks all rights itself."""
INTERFACE: Final = "eth0"
"""The view's."""
SECOND_INTERFACE: Final = "eth1"
"""That of a view in a shared network."""
_SUBNET: Final = "10.94.0.0/24"
"""Not 10.0.2.0/24, which slirp4netns takes by itself: virtual machines have it, and their name servers."""
_ADDRESS: Final = "10.94.0.100"
_GATEWAY: Final = "10.94.0.2"
"""slirp4netns's own of the subnet."""
_MTU: Final = 65520
"""As pasta and slirp4netns have it."""
_SIOCADDRT: Final = 0x890B
_SIOCSIFFLAGS: Final = 0x8914
_SIOCSIFADDR: Final = 0x8916
_SIOCSIFNETMASK: Final = 0x891C
_SIOCSIFMTU: Final = 0x8922
_SIOCSARP: Final = 0x8955
_INET: Final = 2
"""AF_INET: the module `socket` takes milliseconds."""
_ETHERNET: Final = 1
_PERMANENT: Final = 6
"""ATF_PERM | ATF_COM"""
_UP: Final = 1
"""IFF_UP, and RTF_UP of a route."""
_BY_GATEWAY: Final = 2
_MULTICAST: Final = 0x1000
_NONE: Final = "0.0.0.0"  # noqa: S104
_MASK: Final = "255.255.255.0"
_ROUTES: Final = "/proc/net/route"
_DEFAULT: Final = "00000000"

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
    name: str
    """That of the view's interface."""
    forwarder: str | None = None
    """The address inside at which the program answers for the host's name server; None: at none."""
    on_use: bool = False
    """Whether it is started for the first packet, which goes to an interface that is there before."""

    def requests(self) -> list[bytes]:
        """What sets the interface up, where the program does not: its address and its way out (`Plan.helper`)."""
        return _requests(self.name) if self.on_use else []


def _requests(interface: str) -> list[bytes]:
    """Those of netdevice(7), of arp(7) and of linux/route.h."""
    address, gateway, none, mask = map(_socket_address, (_ADDRESS, _GATEWAY, _NONE, _MASK))
    name = interface.encode().ljust(16, b"\0")
    # The gateway's, so that nothing has to ask for it.
    ethernet = _int(_ETHERNET, 2) + bytes((2, 0, 0, 0, 0, 1)).ljust(14, b"\0")
    word = bytes(8 if sys.maxsize >> 32 else 4)
    arguments = {
        _SIOCSIFMTU: name + _int(_MTU, 4),
        _SIOCSIFADDR: name + address,
        _SIOCSIFNETMASK: name + mask,
        _SIOCSIFFLAGS: name + _int(_UP | _MULTICAST, 2),
        _SIOCSARP: gateway + ethernet + _int(_PERMANENT, 4) + bytes(16) + name,
        _SIOCADDRT: word + none + gateway + none + _int(_UP | _BY_GATEWAY, 2),
    }
    return [
        _int(number, 8) + raw.ljust(REQUEST_BYTES - 8, b"\0") for number, raw in arguments.items()
    ]


def _socket_address(number: str) -> bytes:
    return _int(_INET, 2) + bytes((0, 0, *map(int, number.split(".")))) + bytes(8)


def _int(number: int, size: int) -> bytes:
    return number.to_bytes(size, sys.byteorder)


def _pasta(path: str, interface: str, *, on_use: bool) -> Program:
    forwarder = "169.254.1.1"  # podman's choice
    given = ("--address", _ADDRESS, "--netmask", "24", "--gateway", _GATEWAY)
    return Program(
        argv=(
            path,
            *(given if on_use else ("--config-net",)),
            "--quiet",
            *("--ns-ifname", interface),
            # Nothing of the host's loopback, and no port of either side on the other.
            "--no-map-gw",
            *("--tcp-ports", "none", "--udp-ports", "none"),
            *("--tcp-ns", "none", "--udp-ns", "none"),
            *("--dns-forward", forwarder),
            # It is in the user namespace already. As root it would become another user.
            *("--netns-only", "--runas", "0:0"),
            *("--netns", _NETWORK),
        ),
        name=interface,
        forwarder=forwarder,
        on_use=on_use,
    )


def _slirp4netns(path: str, interface: str, *, on_use: bool) -> Program:
    return Program(
        argv=(
            path,
            *(() if on_use else ("--configure", "--mtu=65520")),
            f"--cidr={_SUBNET}",
            "--disable-host-loopback",
            "--enable-sandbox",
            "--enable-seccomp",
            # It would reach every port of the host's name server, which may be on the host's loopback.
            "--disable-dns",
            f"--ready-fd={_READY}",
            "--netns-type=path",
            _NETWORK,
            interface,
        ),
        name=interface,
        on_use=on_use,
    )


PROGRAMS: Final[dict[str, _Maker]] = {
    "pasta": _pasta,
    "slirp4netns": _slirp4netns,
}
"""In the order of preference."""


def installed() -> dict[str, str]:
    """The programs that are installed: the path of each."""
    found: dict[str, str] = {}
    for name in PROGRAMS:
        for directory in os.environ.get("PATH", os.defpath).split(
            os.pathsep
        ):  # get_exec_path() imports warnings
            path = os.path.join(directory, name)
            if os.path.isabs(path) and os.access(path, os.X_OK):
                found.setdefault(name, path)
    return found


def program(interface: str = INTERFACE, *, on_use: bool = False) -> Program:
    """The program that connects a view, which has it as `interface`. Raises: NoOutboundProgram, TunRefused."""
    found = installed()
    if not found:
        raise NoOutboundProgram
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise TunRefused(TUN, error.strerror) from None
    name, path = next(iter(found.items()))
    return PROGRAMS[name](path, interface, on_use=on_use)


def program_on_use(interface: str = INTERFACE) -> Program | str:
    """The program for a view that says nothing of its network, started for its first packet; or why there is none."""
    if not _has_default_route():
        return "this machine has no default route (IPv4)"
    try:
        return program(interface, on_use=True)
    except (NoOutboundProgram, TunRefused) as error:
        return str(error).partition(": ")[2]


def _has_default_route() -> bool:
    try:
        with open(_ROUTES) as routes:
            return any(line.split()[1:8:6] == [_DEFAULT, _DEFAULT] for line in routes)
    except OSError:
        return False


def refusal(subject: str, reason: str) -> OutboundRefused:
    """The error for a failure of the step "connect", whose subject has a line with the program, and what it said."""
    path, *said = subject.splitlines()
    # Without a system logger pasta says that as well.
    lines = [line for line in said if line.strip() and not line.startswith("Failed to send")]
    return OutboundRefused(os.path.basename(path), lines[-1].strip() if lines else reason)
