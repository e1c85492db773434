"""Networks that views share by name: who is a member, and under which address.

A member's entry in the registry has a file `network`, the lease of an address, which ends with the entry or with its
lock: so the address of a view that was killed is free at once. Leases are read and written while the registry is
locked. The network itself is a namespace that its members hold a descriptor of (`namespace.bridge`). A new member takes
it from another one, by procfs; the lease is locked (flock(2)) while its owner cannot be looked into.
"""

from __future__ import annotations

import fcntl
import os

from overlaykit import codec, namespace
from overlaykit.errors import Error
from overlaykit.namespace import bridge
from overlaykit.record import Record
from overlaykit.scope import suppress
from overlaykit.views import entry as entries
from overlaykit.views import network_hosts
from overlaykit.views.spec import BRIDGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from overlaykit.views.entry import Entry
    from overlaykit.views.registry import Registry

_LEASE: Final = "network"
_INTERFACE: Final = "ok-"


class NetworkFull(Error):
    message = (
        "--network {0}: all of its 253 addresses are in use; end a view, or name another network"
    )


class BridgeNeedsRoot(Error):
    message = (
        "--network bridge: needs root, with CAP_NET_ADMIN; views of an ordinary user share a "
        "network that they name, for example --network backend"
    )


class Lease(Record, kw_only=True):
    """A member of a network.

    `entry`: the name of its entry's directory; `name`: that of the view at its start, by which others know it.
    `subnet`, `number`: as in `bridge.Place`. `pid`, `descriptor`: a process and its descriptor of the network's
    namespace, which `inode` identifies.
    """

    network: str
    entry: str
    name: str
    subnet: str
    number: int
    pid: int
    descriptor: int
    inode: int

    @property
    def place(self) -> bridge.Place:
        return bridge.Place(subnet=self.subnet, number=self.number)


def _lines(names: namespace.Names | None) -> bytes:
    if names is None:
        return b""
    own = f"127.0.0.1 {names.hostname}\n" if names.hostname else ""
    return f"{names.hosts_lines}{own}".encode()


class Membership:
    """A view's place in a network, from `join` to the end of the view. `close` gives it up.

    Attributes: `user_namespace`, a descriptor: the parent of the view's (None: the view needs none); `view`, the
    descriptor of the view's network namespace, -1 before `connect`; `outward`, its way outward beside the network, as
    in `ViewSpec`; `notes`, what a user may not expect.
    """

    def __init__(
        self, network: str, entry: Entry, registry: Registry, *, outward: str = "private"
    ) -> None:
        """Join the network, which the first member makes.

        Raises: BridgeNeedsRoot, NetworkFull, NetworksExhausted, UserNamespacesRefused, OSError.
        """
        self.notes: tuple[str, ...] = ()
        self.view = -1
        self.user_namespace: int | None = None
        self._network = self._gate = self._translation = -1
        self._name = network
        self._entry = entry
        self._registry = registry
        self._reaches_host = bridge.may_reach_host()
        # The network has a way outward then.
        self.outward = "private" if self._reaches_host and outward == "auto" else outward
        if network == BRIDGE and not self._reaches_host:
            raise BridgeNeedsRoot
        try:
            self._lease = self._join()
            self.user_namespace = bridge.owner(self._network)
        except BaseException:
            self.close()
            raise

    def connect(self, root: namespace.RootMount, names: namespace.Names | None) -> None:
        """Make the network namespace of the view and connect it.

        `names`: what the view's /etc/hosts has before the lines of the layers.

        Raises: BridgeRefused, NetworksExhausted, OSError.
        """
        place = self._lease.place
        uplink = f"{_INTERFACE}{os.urandom(4).hex()}" if self._reaches_host else None
        self.view, hosts = bridge.network_of_view(self._name, root)
        routed = self._reaches_host and self.outward == "private"
        bridge.connect(
            self._name, self._network, self.view, place, uplink=uplink, default_route=routed
        )
        if routed:
            self._translate(place)
        with self._registry.locked():
            self._write_hosts(_lines(names) + (hosts or network_hosts.USUAL))
        self.release()

    def release(self) -> None:
        """Let new members take the network from this process."""
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    @property
    def address(self) -> str:
        return self._lease.place.address

    @property
    def hosts(self) -> str:
        """The file that the view has as /etc/hosts."""
        return network_hosts.path(self._entry.path)

    @property
    def holds(self) -> tuple[int, ...]:
        """Descriptors that the supervisor keeps open as long as the view has processes."""
        held = (self._network, self._translation)
        return tuple(descriptor for descriptor in held if descriptor >= 0)

    def become_supervisor(self) -> tuple[int, ...]:
        """Lock the lease. Returns: the descriptors that the supervisor keeps open until it can be looked into."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        return (self._gate,)

    def close(self) -> None:
        owned = (self.view, self._network, self._gate, self._translation, self.user_namespace)
        self.view = self._network = self._gate = self._translation = -1
        self.user_namespace = None
        for descriptor in owned:
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)

    def _join(self) -> Lease:
        while True:
            with self._registry.locked():
                leases = self._leases()
                members = [one for one in leases if one.network == self._name]
                if not members and self._network < 0:
                    self._network = self._make()
                if self._network >= 0:
                    inode = os.fstat(self._network).st_ino
                    if all(member.inode == inode for member in members):
                        return self._take_lease(leases, members, inode)
                    # All members have ended since, and others have made a network of this name.
                    os.close(self._network)
                    self._network = -1
            self._network = self._find(members)

    def _make(self) -> int:
        try:
            return bridge.make(self._name)
        except (OSError, bridge.NetworksExhausted) as error:
            if namespace.is_privileged():
                raise
            raise namespace.diagnose() or error from None

    def _leases(self) -> list[Lease]:
        """Those of views that run. Requires: the registry is locked."""
        found = []
        for path in self._registry.paths():
            with suppress(OSError, ValueError), open(os.path.join(path, _LEASE), "rb") as file:
                lease: Lease = codec.decode(file.read(), Lease)
                if entries.is_view_locked(path):
                    found.append(lease)
        return found

    def _take_lease(self, leases: Sequence[Lease], members: Sequence[Lease], inode: int) -> Lease:
        taken = {lease.subnet for lease in leases}
        subnet = members[0].subnet if members else bridge.free_subnet(self._name, taken)
        used = {member.number for member in members}
        # Not one that a view has had a moment ago.
        after = range(max(used, default=bridge.GATEWAY) + 1, bridge.HOSTS.stop)
        free = [number for number in (*after, *bridge.HOSTS) if number not in used]
        if not free:
            raise NetworkFull(self._name)
        lease = Lease(
            network=self._name,
            entry=os.path.basename(self._entry.path),
            name=self._entry.name,
            subnet=subnet,
            number=free[0],
            pid=os.getpid(),
            descriptor=self._network,
            inode=inode,
        )
        self._entry.member = network_hosts.line(lease.place.address, lease.name)
        path = self._lease_of(lease)
        with entries.writing_entries(os.path.dirname(path)):
            self._gate = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            os.write(self._gate, codec.encode(lease))
        return lease

    def _lease_of(self, lease: Lease) -> str:
        return os.path.join(os.path.dirname(self._entry.path), lease.entry, _LEASE)

    def _find(self, members: Sequence[Lease]) -> int:
        """The namespace of the network, from one of its members; -1 if all have ended. Waits for those that start."""
        for member in members:
            with suppress(OSError), open(self._lease_of(member), "rb") as lease:
                fcntl.flock(lease, fcntl.LOCK_SH)
                found = os.open(
                    f"/proc/{member.pid}/fd/{member.descriptor}", os.O_RDONLY | os.O_CLOEXEC
                )
                if os.fstat(found).st_ino == member.inode:
                    return found
                os.close(found)
        return -1

    def _translate(self, place: bridge.Place) -> None:
        """Let the view reach other machines, if this one can."""
        from overlaykit.namespace import nat

        try:
            self._translation = nat.masquerade(place)
        except OSError as error:
            self._note(f"nftables of this kernel cannot translate addresses ({error.strerror})")
            return
        if not nat.is_forwarding():
            self._note("to let it reach others, set net.ipv4.ip_forward=1 (sysctl)")

    def _note(self, reason: str) -> None:
        note = f"--network {self._name}: reaches views and this machine alone: {reason}"
        self.notes = (*self.notes, note)

    def _write_hosts(self, own: bytes) -> None:
        """Name all members in the files of all. Requires: the registry is locked."""
        members = [one for one in self._leases() if one.inode == self._lease.inode]
        members.sort(key=lambda one: one.number)
        own_name = self._entry.name
        # The name leads to this view now, no more to one that had it at its start and was renamed.
        named = [one for one in members if one.name != own_name or one.entry == self._lease.entry]
        names = [(one.place.address, one.name) for one in named]
        with entries.writing_entries(os.path.dirname(self._entry.path)):
            network_hosts.write(self._entry.path, own, self._name, names)
        for one in members:
            if one.entry != self._lease.entry:
                network_hosts.update(os.path.dirname(self._lease_of(one)), self._name, names)
