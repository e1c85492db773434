"""The network that views share: a bridge in a network namespace of its own, and what connects a view to it.

    namespace of the host            of the network                       of a view
    uplink (the gateway) ----- "uplink" -- "bridge" -- "port-N" --------- "eth0"

The namespace of the network has no process: its members hold descriptors of it, and the kernel removes the interfaces
with the last of them, however they end. With root the network has an uplink to the host. An ordinary user's network
belongs to a user namespace of its own, the parent of those of its views: only so a process may connect both sides.

Children of this process do what takes another namespace, and load pyroute2.
"""

from __future__ import annotations

import errno
import fcntl
import os

from overlaykit import _native, child, sockets
from overlaykit.errors import Error
from overlaykit.namespace import users
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Final

    from pyroute2 import IPRoute

    from overlaykit.namespace.spec import RootMount

SUBNETS: Final = tuple(f"10.{90 + high}.{low}" for high in range(4) for low in range(256))
"""The first three numbers of the networks of 254 addresses that are handed out; podman takes 10.88 and 10.89."""

GATEWAY: Final = 1
HOSTS: Final = range(2, 255)
"""The last numbers of addresses of views."""

PREFIX: Final = 24
"""Bits of a network's address."""

_BRIDGE: Final = "bridge"
_UPLINK: Final = "uplink"
_OF_VIEW: Final = "eth0"
_NS_GET_USERNS: Final = 0xB701
"""ioctl_ns(2)."""
_ROUTES: Final = "/proc/net/fib_trie"
_LONGEST_HOSTS: Final = 1 << 15
"""Bytes."""


class BridgeRefused(Error):
    message = (
        "--network {0}: the kernel refuses to make its interfaces ({1}); load its modules veth and "
        "bridge, or leave --network out"
    )


class NetworksExhausted(Error):
    message = (
        "--network {0}: the kernel makes no more network namespaces: end other views, or raise "
        "user.max_net_namespaces (sysctl)"
    )


class Place(Record, kw_only=True):
    """A member's place in a network. `subnet`: three numbers of its address; `number`: the fourth."""

    subnet: str
    number: int

    @property
    def address(self) -> str:
        return f"{self.subnet}.{self.number}"

    @property
    def gateway(self) -> str:
        """The host's address in the network, if there is an uplink."""
        return f"{self.subnet}.{GATEWAY}"

    @property
    def ethernet(self) -> str:
        """The same for each member that gets the address: neighbours may remember the last one's."""
        numbers = map(int, self.address.split("."))
        return ":".join(f"{number:02x}" for number in (2, 66, *numbers))


def make(name: str) -> int:
    """Make a network, empty. Returns: a descriptor of its namespace, which the caller closes.

    Raises: NetworksExhausted; OSError: as unshare(2).
    """

    def in_child() -> child.Made:
        users.become(_native.CLONE_NEWNET)
        return [_open_network()], b""

    (network,), _ = _in_child(in_child, name)
    return network


def owner(network: int) -> int | None:
    """A descriptor of the user namespace that a network belongs to; None if that is the caller's."""
    return None if users.is_privileged() else fcntl.ioctl(network, _NS_GET_USERNS)


def may_reach_host() -> bool:
    """Whether this process may make interfaces in its own network namespace: it is root there."""
    if not users.is_privileged():
        return False
    host = _open_network()
    try:
        os.close(fcntl.ioctl(host, _NS_GET_USERNS))
    except PermissionError:  # the owner is an outer user namespace
        return False
    finally:
        os.close(host)
    return True


def enter_below(user_namespace: int, *, single: bool) -> None:
    """Enter a user namespace, and then a new one that maps all of its ids, or with `single` the caller's alone.

    Requires: a new child.
    """
    from overlaykit.namespace import identities

    _native.setns(user_namespace, _native.CLONE_NEWUSER)
    users.enter(None if single else identities.available())


def free_subnet(name: str, taken: Collection[str]) -> str:
    """A subnet that no route of this machine leads to, and that is not among `taken`: the same for a name if possible.

    Returns: one in use if all are.
    """
    routed = _routes()
    start = int.from_bytes(name.encode(), "big") % len(SUBNETS)
    for subnet in SUBNETS[start:] + SUBNETS[:start]:
        first = _number(f"{subnet}.0")
        if subnet not in taken and not any(
            (first ^ route) >> (32 - min(bits, PREFIX)) == 0 for route, bits in routed
        ):
            break
    return subnet


def _routes() -> list[tuple[int, int]]:
    """Address and bits of the routes of all tables, but default routes."""
    found = []
    leaf = ""
    with open(_ROUTES) as routes:
        for line in routes:
            word, _, rest = line.strip().partition(" ")
            if word == "|--":
                leaf = rest
            elif word[:1] == "/" and word != "/0":
                found.append((_number(leaf), int(word[1:])))
    return found


def _number(address: str) -> int:
    return int.from_bytes(sockets.inet_pton(sockets.AF_INET, address), "big")


def network_of_view(name: str, root: RootMount) -> tuple[int, bytes]:
    """Make the network namespace of a view in the network `name`.

    Returns: its descriptor, which the caller closes; the contents of the view's /etc/hosts, empty if it has none.
    Raises: NetworksExhausted; OSError: as setns(2) and unshare(2).
    """
    from overlaykit.namespace import accounts

    def in_child() -> child.Made:
        mount = root.enter()
        _native.unshare(_native.CLONE_NEWNET)
        return [_open_network()], accounts.read_in_root(mount, "/etc/hosts")[:_LONGEST_HOSTS]

    (view,), hosts = _in_child(in_child, name)
    return view, hosts


def connect(
    name: str, network: int, view: int, place: Place, *, uplink: str | None, default_route: bool
) -> None:
    """Connect a view's network namespace, and the network itself to the host if it has no `uplink` yet.

    `uplink`: the name of the host's interface; None: there is no way to the host.
    `default_route`: whether the view reaches others by it.
    Raises: BridgeRefused.
    """
    user = owner(network)

    def in_child() -> child.Made:
        # The newest imports of pyroute2 need the classes of asyncio, so they are made here alone.
        from pyroute2 import IPRoute, NetlinkError

        try:
            host = _open_network()
            if user is not None:
                _native.setns(user, _native.CLONE_NEWUSER)
            _native.setns(network, _native.CLONE_NEWNET)
            with IPRoute() as links:
                made = _make_port(links, view, host, place, uplink)
            if made and uplink is not None:
                _native.setns(host, _native.CLONE_NEWNET)
                with IPRoute() as links:
                    _raise(links, uplink, place.gateway)
            _native.setns(view, _native.CLONE_NEWNET)
            with IPRoute() as links:
                _raise(links, _OF_VIEW, place.address)
                if default_route:
                    links.route("add", dst="default", gateway=place.gateway)
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from None
        return [], b""

    try:
        _in_child(in_child, name)
    except OSError as error:
        raise BridgeRefused(name, error.strerror) from error
    finally:
        if user is not None:
            os.close(user)


def _make_port(links: IPRoute, view: int, host: int, place: Place, uplink: str | None) -> bool:
    """Make a veth pair from the bridge to a view; the bridge and its way to the host where they are missing.

    Returns: whether they were.
    """
    first = not links.link_lookup(ifname=_BRIDGE)
    if first:
        links.link("add", ifname=_BRIDGE, kind="bridge")
    (bridge,) = links.link_lookup(ifname=_BRIDGE)
    if first:
        links.link("set", index=bridge, state="up")
        if uplink is not None:
            _pair(links, bridge, _UPLINK, {"ifname": uplink, "net_ns_fd": host})
    port = f"port-{place.number}"
    for left in links.link_lookup(ifname=port):  # of a view that was killed a moment ago
        links.link("del", index=left)
    _pair(links, bridge, port, {"ifname": _OF_VIEW, "net_ns_fd": view, "address": place.ethernet})
    return first


def _pair(links: IPRoute, bridge: int, name: str, peer: dict[str, object]) -> None:
    links.link("add", ifname=name, kind="veth", master=bridge, state="up", peer=peer)


def _raise(links: IPRoute, name: str, address: str) -> None:
    (index,) = links.link_lookup(ifname=name)
    links.addr("add", index=index, address=address, prefixlen=PREFIX)
    links.link("set", index=index, state="up")


def _open_network() -> int:
    """A descriptor of the network namespace of this thread."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _in_child(body: Callable[[], child.Made], name: str) -> child.Made:
    """What `body` makes in a child, for the network `name`. Raises: NetworksExhausted; OSError: as `child.make`."""
    try:
        return child.make(body, most_bytes=_LONGEST_HOSTS)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NetworksExhausted(name) from error
        raise
