"""What to run and in which surroundings: plain data, and the texts a user writes it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from overlaykit.errors import Error
from overlaykit.namespace.binds import Bind
from overlaykit.namespace.environment import Environment


class BadPort(Error):
    message = (
        "-p {0}: {1}; write HOST:PORT or ADDRESS:HOST:PORT, for example 8080:80 or 0.0.0.0:8080:80"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A TCP port of the view's that the host answers for (`-p`).

    Published on the loopback address unless another is named: what a view serves leaves the machine only
    when the user wrote so ("0.0.0.0" or "::" for every address).
    """

    address: str = "127.0.0.1"
    """An IPv4 or IPv6 address of the host's, as digits."""
    host: int
    """The host's port; 0 lets the kernel choose a free one (`Processes.ports` has it)."""
    view: int
    """The port inside, on the view's 127.0.0.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """A command and the surroundings it is to see."""

    argv: tuple[str, ...]
    """The command and its arguments; a command without a slash is looked up along the PATH of `env`, inside."""
    env: Environment
    """Its whole environment."""
    cwd: str = "/"
    """Its working directory, absolute, inside the view."""
    cwd_required: bool = False
    """Whether a missing `cwd` is an error (it was asked for) or means "/"."""
    hostname: str = "overlaykit"
    """At most 64 bytes (uname(2)); with the network "host" the host's own name stays."""
    network: Literal["private", "host", "none"] = "private"
    """A network of its own with only the loopback; the host's; or its own, with nothing published."""
    binds: tuple[Bind, ...] = field(default=())
    """In any order: one that lies below another is attached after it."""
    ports: tuple[Port, ...] = field(default=())
    descriptors: tuple[int, ...] = field(default=())
    """Open descriptors of the caller's that the command gets under the same numbers, beside the standard ones."""
    redirected: Mapping[int, int] = field(default_factory=dict)
    """Standard descriptors (0 to 2) of the command's that are copies of others of the caller's, from 3 on."""
    umask: int | None = None
    """None: the caller's."""
    keep: bool = False
    """Whether what is written in the view outlives the command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What a command takes over from the process that launches it, as it was before the launcher changed its own."""

    pid: int
    blocked: frozenset[int]
    """The signal mask."""
    closed: frozenset[int]
    """The standard descriptors that are closed."""


def parse_port(text: str) -> Port:
    """Read `[ADDRESS:]HOST:PORT[/tcp]`, an IPv6 address in brackets; ADDRESS is 127.0.0.1 unless written.

    Raises:
      BadPort: the text has another form, or a number is no TCP port.
    """
    ports, slash, protocol = text.partition("/")
    if slash and protocol != "tcp":
        raise BadPort(text, f"{protocol!r} is not tcp, and nothing else is published")
    rest, _, view = ports.rpartition(":")
    address, colon, host = rest.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        raise BadPort(text, "an IPv6 address needs brackets")
    if not host:
        raise BadPort(
            text, "the host's port is missing (0: a free one, which 'overlaykit ps' shows)"
        )
    if colon and not address:
        raise BadPort(text, "the address is empty")
    address = address or "127.0.0.1"
    if not _is_address(address):
        raise BadPort(text, f"{address!r} is not an IP address")
    return Port(
        address=address, host=_number(text, host, lowest=0), view=_number(text, view, lowest=1)
    )


def _number(text: str, digits: str, *, lowest: int) -> int:
    if "-" in digits.strip("-"):
        raise BadPort(text, f"{digits!r} is a range, and each port needs a -p of its own")
    if not (digits.isascii() and digits.isdecimal() and lowest <= int(digits) <= 65535):
        raise BadPort(text, f"{digits!r} is not a TCP port ({lowest} to 65535)")
    return int(digits)


def _is_address(text: str) -> bool:
    import socket

    try:
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except OSError:
        return False
    return True
