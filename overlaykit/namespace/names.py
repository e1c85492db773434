"""The names that a view knows: its own, those of others, and the name servers that it asks (--dns and the like).

The view's /etc/hosts, /etc/hostname and /etc/resolv.conf are files in memory over those of the layers (`Plan.cover`).
"""

from __future__ import annotations

import re

from overlaykit import sockets
from overlaykit.errors import Error
from overlaykit.record import Record
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final


RESOLVER: Final = "/etc/resolv.conf"

_OF_RESOLVED: Final = "/run/systemd/resolve/resolv.conf"
"""The servers that systemd-resolved asks, which itself answers on a loopback address."""
_HOSTNAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_LONGEST_HOSTNAME: Final = 64
_WORD: Final = re.compile(r"[^\s#;]+")
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")


class BadNames(Error):
    message = "{0} {1}: {2}"


class Names(Record, kw_only=True):
    """What a caller says of names. Empty: as the host has it."""

    hostname: str | None = None
    """None: the view's name."""
    nameservers: tuple[str, ...] = ()
    """Addresses."""
    searches: tuple[str, ...] = ()
    """Domains; "." alone for none."""
    options: tuple[str, ...] = ()
    """As resolv.conf(5) has them."""
    hosts: tuple[tuple[str, str], ...] = ()
    """Names and their addresses."""

    @property
    def hosts_lines(self) -> str:
        return "".join(f"{address} {name}\n" for name, address in self.hosts)

    @property
    def resolves(self) -> bool:
        """Whether the view has an /etc/resolv.conf of its own in any case."""
        return bool(self.nameservers or self.searches or self.options)


def parse(
    *,
    hostname: str | None = None,
    dns: Iterable[str] = (),
    searches: Iterable[str] = (),
    options: Iterable[str] = (),
    hosts: Iterable[str] = (),
) -> Names | None:
    """The names that options give; None without any. Raises: BadNames."""
    if hostname is not None and (
        not _HOSTNAME.fullmatch(hostname) or len(hostname) > _LONGEST_HOSTNAME
    ):
        raise BadNames(
            "--hostname",
            hostname,
            f"give up to {_LONGEST_HOSTNAME} letters, digits, dots and hyphens",
        )
    found = Names(
        hostname=hostname,
        nameservers=tuple(map(_nameserver, dns)),
        searches=tuple(_words("--dns-search", searches)),
        options=tuple(_words("--dns-option", options)),
        hosts=tuple(map(_host, hosts)),
    )
    return None if found == Names() else found


def _nameserver(text: str) -> str:
    if not _is_address(text):
        raise BadNames(
            "--dns", text, "give the address of a name server, as 192.0.2.53 or 2001:db8::53"
        )
    return text


def _words(option: str, texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        if not _WORD.fullmatch(text):
            raise BadNames(option, text, "give one word")
        yield text


def _host(text: str) -> tuple[str, str]:
    name, _, address = text.partition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if not _HOST.fullmatch(name) or not _is_address(address):
        raise BadNames("--add-host", text, "give NAME:IP, as db:192.0.2.7")
    return name, address


def _is_address(text: str) -> bool:
    for family in sockets.AF_INET, sockets.AF_INET6:
        with suppress(OSError, ValueError):
            sockets.inet_pton(family, text)
            return True
    return False


def resolver(names: Names | None, network: str, forwarder: str | None) -> str | None:
    """The contents of a view's /etc/resolv.conf; None where that of the layers is not covered.

    Args:
      forwarder: an address at which the helper of the network "outbound" answers for the host's name server.
    """
    names = names or Names()
    if network != "outbound" and not names.resolves:
        return None
    servers, searches, options = _read(RESOLVER)
    if network == "outbound":
        servers = _reachable(servers, forwarder)
    if names.searches:
        searches = [] if names.searches == (".",) else names.searches
    lines = [f"nameserver {server}" for server in names.nameservers or servers]
    if searches:
        lines.append(" ".join(("search", *searches)))
    if names.options or options:
        lines.append(" ".join(("options", *(names.options or options))))
    return "".join(f"{line}\n" for line in lines)


def _reachable(servers: Sequence[str], forwarder: str | None) -> Sequence[str]:
    """Those of the host's name servers that a view can ask whose loopback is its own."""
    others = [server for server in servers if not _is_local(server)]
    if any(map(_is_ipv4, servers)) and forwarder is not None:
        return [forwarder, *others]
    return others or [server for server in _read(_OF_RESOLVED)[0] if not _is_local(server)]


def _is_ipv4(address: str) -> bool:
    return ":" not in address


def _is_local(address: str) -> bool:
    """Whether it is on the loopback interface, or of one link of the host."""
    return (
        address.startswith(("127.", "0."))
        or address == "::1"
        or address.lower().startswith("fe80:")
    )


def _read(path: str) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """The name servers, search domains and options of a file as resolv.conf(5); none if it cannot be read."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            match line.split():
                case ["nameserver", server, *_]:
                    servers.append(server)
                case ["search" | "domain", *words]:
                    searches = words
                case ["options", *words]:
                    options += words
    return servers, searches, options
