"""What to run and in which surroundings: plain data, and the texts a user writes it in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from overlaykit.errors import Error
from overlaykit.namespace.environment import Environment


class BadBind(Error):
    message = "-v {0}: {1}; write SOURCE:TARGET or SOURCE:TARGET:ro, with an absolute TARGET"


class BadPort(Error):
    message = (
        "-p {0}: {1}; write HOST:PORT or ADDRESS:HOST:PORT, for example 8080:80 or 0.0.0.0:8080:80"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A path of the host's that the view shares (`-v`), with everything mounted below it."""

    source: str
    """An absolute path outside: a directory, or any single file."""
    target: str
    """An absolute path inside the view, made there (a directory or an empty file) when missing."""
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A TCP port of the view's that the host answers for (`-p`).

    Published on the loopback address unless another is named: what a view serves leaves the machine only
    when somebody wrote so ("0.0.0.0" or "::" for every address).
    """

    address: str = "127.0.0.1"
    """An IPv4 or IPv6 address of the host's, as digits."""
    host: int
    """The host's port; 0 lets the kernel choose a free one (`Running.ports` tells which)."""
    view: int
    """The port inside, on the view's 127.0.0.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
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
    """At most 64 bytes (uname(2))."""
    network: Literal["private", "host", "none"] = "private"
    """A network of its own with only the loopback; the host's; or its own, with nothing published."""
    binds: tuple[Bind, ...] = field(default=())
    """Attached in this order, so a later one may lie below an earlier one."""
    ports: tuple[Port, ...] = field(default=())
    descriptors: tuple[int, ...] = field(default=())
    """Open descriptors of the caller's that the command gets under the same numbers, beside the standard ones."""
    redirected: Mapping[int, int] = field(default_factory=dict)
    """Standard descriptors (0 to 2) of the command's that are copies of others of the caller's, from 3 on."""
    umask: int | None = None
    """None: the caller's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What a command takes over from the process that launches it, as it was before the launcher changed its own."""

    pid: int
    blocked: frozenset[int]
    """The signal mask."""
    closed: frozenset[int]
    """The standard descriptors that are closed."""


def parse_bind(text: str) -> Bind:
    """Read `SOURCE:TARGET[:ro|rw]`; a relative SOURCE is meant from the current directory.

    Raises:
      BadBind: the text has another form. (Whether SOURCE exists is seen when the view starts.)
    """
    match text.split(":"):
        case [source, target]:
            mode = "rw"
        case [source, target, mode]:
            pass
        case _:
            raise BadBind(text, "expected one or two colons")
    if mode not in ("ro", "rw"):
        raise BadBind(text, f"{mode!r} is neither ro nor rw")
    if not source:
        raise BadBind(text, "the source is empty")
    if not target.startswith("/"):
        raise BadBind(text, f"the target {target!r} is not absolute")
    if (target := "/" + os.path.normpath(target).lstrip("/")) == "/":
        raise BadBind(text, "the view's root itself cannot be covered")
    return Bind(source=os.path.abspath(source), target=target, read_only=mode == "ro")


def parse_port(text: str) -> Port:
    """Read `[ADDRESS:]HOST:PORT`, an IPv6 address in brackets; ADDRESS is 127.0.0.1 unless written.

    Raises:
      BadPort: the text has another form, or a number is no TCP port.
    """
    rest, _, view = text.rpartition(":")
    address, colon, host = rest.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        raise BadPort(text, "an IPv6 address needs brackets")
    if colon and not address:
        raise BadPort(text, "the address is empty")
    address = address or "127.0.0.1"
    if not _is_address(address):
        raise BadPort(text, f"{address!r} is not an IP address")
    return Port(
        address=address, host=_number(text, host, lowest=0), view=_number(text, view, lowest=1)
    )


def _number(text: str, digits: str, *, lowest: int) -> int:
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
