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
    from collections.abc import Iterable
    from typing import Final


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
