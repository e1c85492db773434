"""Published ports: what `-p` means."""

from __future__ import annotations

from overlaykit.errors import Error
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Literal, TypeAlias

    Protocol: TypeAlias = Literal["tcp", "udp"]

_PROTOCOLS: Final = ("tcp", "udp")
_HIGHEST: Final = 65535
_MOST_IN_A_RANGE: Final = 500
"""Each port is a descriptor of the launcher, which usually may have 1024."""


class BadPort(Error):
    message = (
        "-p {0}: {1}; write [ADDRESS:][HOST:]PORT[/tcp|/udp], for example 8080:80, 0.0.0.0:8080:80 "
        "or 8000-8009:9000-9009"
    )


class Port(Record, kw_only=True):
    """A published port of the view (`-p`).

    The default is the loopback address: a view's server is reachable from other machines only where the user names
    another address ("0.0.0.0" or "::" for all of them).

    Raises:
      ValueError: a field has a value that no port can have; it names the field.
    """

    address: str = "127.0.0.1"
    """An IPv4 or IPv6 address of the host, in digits."""
    host: int
    """The port on the host; 0 lets the kernel choose a free one (see `Processes.ports`)."""
    view: int
    """The port on the view's loopback address: of the family of `address`, else of the other one."""
    protocol: Protocol = "tcp"

    def __post_init__(self) -> None:
        if not _is_address(self.address):
            raise ValueError(f"address: {self.address!r} is not an IP address")
        for field, number, lowest in (("host", self.host, 0), ("view", self.view, 1)):
            if not lowest <= number <= _HIGHEST:
                raise ValueError(f"{field}: {number} is not a port ({lowest} to {_HIGHEST})")
        if self.protocol not in _PROTOCOLS:
            raise ValueError(f"protocol: {self.protocol!r} is neither tcp nor udp")

    def __str__(self) -> str:
        """As `parse_ports` takes it."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        suffix = "" if self.protocol == "tcp" else f"/{self.protocol}"
        return f"{address}:{self.host}:{self.view}{suffix}"


def parse_ports(text: str) -> tuple[Port, ...]:
    """Parse `[ADDRESS:][HOST:]PORT[/tcp|/udp]`, an IPv6 address in brackets; ADDRESS is 127.0.0.1 by default.

    HOST and PORT are numbers, or ranges FIRST-LAST of one length. Without HOST, or with 0, the kernel chooses free
    ports.

    Raises:
      BadPort: the text has another form, or a number is no port.
    """
    ports, slash, protocol = text.partition("/")
    if slash and protocol not in _PROTOCOLS:
        raise BadPort(text, f"{protocol!r} is neither tcp nor udp, and nothing else is published")
    rest, _, view = ports.rpartition(":")
    address, colon, host = (rest, ":", "") if rest.endswith("]") else rest.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        raise BadPort(text, "an IPv6 address needs brackets")
    if colon and not address:
        raise BadPort(text, "the address is empty")
    address = address or "127.0.0.1"
    if not _is_address(address):
        raise BadPort(text, f"{address!r} is not an IP address")
    inside = _numbers(text, view, lowest=1)
    outside = _numbers(text, host or "0", lowest=0)
    if outside == range(1):
        chosen = [0] * len(inside)
    elif len(outside) == len(inside):
        chosen = list(outside)
    else:
        raise BadPort(
            text, f"{len(outside)} of the host's ports are not {len(inside)} of the view's"
        )
    return tuple(
        Port(
            address=address,
            host=number,
            view=published,
            protocol="udp" if protocol == "udp" else "tcp",
        )
        for number, published in zip(chosen, inside, strict=True)
    )


def _numbers(text: str, digits: str, *, lowest: int) -> range:
    """A number, or a range of them."""
    first, dash, last = digits.partition("-")
    start = _number(text, first, lowest=lowest)
    if not dash:
        return range(start, start + 1)
    stop = _number(text, last, lowest=1) + 1
    if not start:
        raise BadPort(text, f"{digits!r} begins with 0; leave the host's ports out for free ones")
    if stop <= start:
        raise BadPort(text, f"{digits!r} ends before it begins")
    if stop - start > _MOST_IN_A_RANGE:
        raise BadPort(text, f"{digits!r} has more than {_MOST_IN_A_RANGE} ports")
    return range(start, stop)


def _number(text: str, digits: str, *, lowest: int) -> int:
    if not (digits.isascii() and digits.isdecimal() and lowest <= int(digits) <= _HIGHEST):
        raise BadPort(text, f"{digits!r} is not a port ({lowest} to {_HIGHEST})")
    return int(digits)


def _is_address(text: str) -> bool:
    from overlaykit import sockets

    try:
        sockets.inet_pton(sockets.AF_INET6 if ":" in text else sockets.AF_INET, text)
    except OSError:
        return False
    return True
