"""The /etc/resolv.conf of a view (resolv.conf(5)). A start of a view reads it: it imports no more than it needs."""

from __future__ import annotations

from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from overlaykit.namespace.names import Names
    from overlaykit.namespace.outbound import Program

RESOLVER: Final = "/etc/resolv.conf"

_OF_RESOLVED: Final = "/run/systemd/resolve/resolv.conf"
"""The servers that systemd-resolved asks, which itself answers on a loopback address."""


def resolver(names: Names | None, program: Program | None) -> str | None:
    """The contents of a view's /etc/resolv.conf; None where that of the layers is not covered.

    `program` connects the view outward, if one does.
    """
    given = names is not None and names.resolves
    if program is None and not given:
        return None
    servers, searches, options = _read(RESOLVER)
    if program is not None:
        servers = _reachable(servers, program.forwarder)
    if names is not None:
        servers = names.nameservers or servers
        searches = names.searches or searches
        options = names.options or options
    lines = [f"nameserver {server}" for server in servers]
    if searches and tuple(searches) != (".",):
        lines.append(" ".join(("search", *searches)))
    if options:
        lines.append(" ".join(("options", *options)))
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
