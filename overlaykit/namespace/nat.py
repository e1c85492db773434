"""Address translation for a view on a bridge: a table of nftables that ends with its owner, a netlink socket.

Source: include/uapi/linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c. A table with NFT_TABLE_F_OWNER (Linux
5.12) belongs to the socket that made it, and the kernel removes it when the socket's last descriptor is closed.
"""

from __future__ import annotations

import os
import struct

from overlaykit import sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.namespace.bridge import Place

FORWARDING: Final = "/proc/sys/net/ipv4/ip_forward"

_NETLINK: Final = 16
"""AF_NETLINK."""
_NETFILTER: Final = 12
"""NETLINK_NETFILTER."""
_IPV4: Final = 2
_TABLE, _CHAIN, _RULE = 0x0A00, 0x0A03, 0x0A06
"""NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEW*."""
_BEGIN, _END = 16, 17
"""NFNL_MSG_BATCH_*."""
_REQUEST: Final = 1
_ACKNOWLEDGED: Final = 4
_CREATE: Final = 0x400
_APPEND: Final = 0x800
_NESTED: Final = 0x8000
_OWNED: Final = 2
"""NFT_TABLE_F_OWNER."""
_POSTROUTING: Final = 4
_AFTER_ROUTING: Final = 100
"""NF_IP_PRI_NAT_SRC."""
_SOURCE, _DESTINATION = 12, 16
"""Offsets in an IPv4 header."""
_LONGEST_REPLY: Final = 1 << 14
_ERROR: Final = 2
"""NLMSG_ERROR."""


def is_forwarding() -> bool:
    """Whether this machine forwards packets."""
    with open(FORWARDING) as file:
        return file.read().strip() != "0"


def masquerade(place: Place) -> int:
    """Have packets from a view to other networks leave with the host's address.

    Returns: a descriptor, with whose last copy that ends. Raises: OSError: as nftables; EOPNOTSUPP before Linux 5.12.
    """
    name = _text(f"overlaykit-{place.address}")
    view = sockets.inet_pton(sockets.AF_INET, place.address)
    subnet = sockets.inet_pton(sockets.AF_INET, f"{place.subnet}.0")
    hook = _nest(4, _u32(1, _POSTROUTING) + _u32(2, _AFTER_ROUTING))
    rule = [
        *_compare(_SOURCE, b"\xff\xff\xff\xff", view, equal=True),
        *_compare(_DESTINATION, b"\xff\xff\xff\x00", subnet, equal=False),
        _expression("masq", b""),
    ]
    chain = _text("leave")
    messages = [
        (_TABLE, _CREATE, _attribute(1, name) + _u32(2, _OWNED)),
        (
            _CHAIN,
            _CREATE,
            _attribute(1, name) + _attribute(3, chain) + hook + _attribute(7, _text("nat")),
        ),
        (
            _RULE,
            _CREATE | _APPEND,
            _attribute(1, name) + _attribute(2, chain) + _nest(4, b"".join(rule)),
        ),
    ]
    with sockets.socket(_NETLINK, sockets.SOCK_DGRAM, _NETFILTER) as channel:
        channel.bind((0, 0))
        _carry_out(channel, messages)
        return os.dup(channel.fileno())


def _carry_out(channel: sockets.socket, messages: list[tuple[int, int, bytes]]) -> None:
    """Send a batch, which takes effect whole or not at all. Raises: OSError: of its first failure."""
    batch = _message(_BEGIN, 0, 0, b"", family=0, resource=10)
    for sequence, (kind, flags, attributes) in enumerate(messages, 1):
        batch += _message(kind, flags | _ACKNOWLEDGED, sequence, attributes, family=_IPV4)
    batch += _message(_END, 0, len(messages) + 1, b"", family=0, resource=10)
    channel.send(batch)
    answered = 0
    while answered < len(messages):
        reply = channel.recv(_LONGEST_REPLY)
        while reply:
            length, kind = struct.unpack_from("=IH", reply)
            if kind == _ERROR:
                (number,) = struct.unpack_from("=i", reply, 16)
                if number:
                    raise OSError(-number, os.strerror(-number))
                answered += 1
            reply = reply[(length + 3) & ~3 :]


def _message(
    kind: int, flags: int, sequence: int, attributes: bytes, *, family: int, resource: int = 0
) -> bytes:
    body = struct.pack(">BBH", family, 0, resource) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST, sequence, 0) + body


def _compare(offset: int, mask: bytes, value: bytes, *, equal: bool) -> list[bytes]:
    """Four bytes of the network header: load into register 1, mask, compare."""
    load = _u32(1, 1) + _u32(2, 1) + _u32(3, offset) + _u32(4, 4)
    masked = _u32(1, 1) + _u32(2, 1) + _u32(3, 4) + _data(4, mask) + _data(5, bytes(4))
    compare = _u32(1, 1) + _u32(2, 0 if equal else 1) + _data(3, value)
    return [
        _expression("payload", load),
        _expression("bitwise", masked),
        _expression("cmp", compare),
    ]


def _expression(name: str, attributes: bytes) -> bytes:
    return _nest(1, _attribute(1, _text(name)) + _nest(2, attributes))


def _data(kind: int, value: bytes) -> bytes:
    return _nest(kind, _attribute(1, value))


def _u32(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack(">I", value))


def _nest(kind: int, attributes: bytes) -> bytes:
    return _attribute(kind | _NESTED, attributes)


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + value + padding


def _text(value: str) -> bytes:
    return value.encode() + b"\0"
