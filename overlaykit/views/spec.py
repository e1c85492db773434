"""The description of a view: plain data, validated when it is made."""

from __future__ import annotations

import errno
import os

from overlaykit import mountinfo, namespace
from overlaykit.errors import Error
from overlaykit.fuse.directories import UpperUnusable
from overlaykit.namespace.confinement import Confinement
from overlaykit.namespace.spec import NETWORKS
from overlaykit.record import Record
from overlaykit.views.registry import is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Final

    from overlaykit.fuse.spec import NoOpen
    from overlaykit.layers import Layer
    from overlaykit.namespace import Bind, Device, Limits, Names, Port, Tmpfs
    from overlaykit.views.lies import Lies

BRIDGE: Final = "bridge"
"""The network that root's views share with the host."""

_LEAST_NEAR: Final = 5
"""Letters: of "host", "post" and "hosts" are one edit away."""

_RESERVED: Final = ("container", "default", "ns", "pasta", "pod", "slirp4netns")
"""Modes of other launchers: no name of a network, which would not do what they do."""


class BadNetwork(Error):
    message = (
        "--network {0}: {1}; take auto, private, outbound, host, none, bridge, or the name of a network that views "
        "share: up to 63 letters, digits, '.', '_' and '-', beginning with a letter or a digit"
    )


_OUTWARD: Final = ("auto", "outbound", "private")
"""Modes that a view may take beside a shared network."""


class BadNetworks(Error):
    message = (
        "--network {0}: a view joins one network of a name, and besides may take auto, outbound or private: leave {1} "
        "out"
    )


def is_shared(network: str) -> bool:
    """Whether it is a network that views share, and no mode."""
    return network not in NETWORKS


def _require_network(network: str) -> None:
    """Raises: BadNetwork."""
    if network in NETWORKS or network == BRIDGE:
        return
    if network.lower() in (*NETWORKS, BRIDGE):
        raise BadNetwork(network, f"write {network.lower()}")
    if network in _RESERVED:
        raise BadNetwork(network, "a mode of other launchers")
    if not is_name(network):
        raise BadNetwork(network, "no mode, and not the name of a network")
    for mode in (*NETWORKS, BRIDGE):
        if _is_near(network, mode):
            raise BadNetwork(network, f"too near to a mode for a name; did you mean {mode}?")


def _networks(given: str | Sequence[str]) -> tuple[str, str]:
    """The network of a view, and its way outward beside a shared one. Of modes the last counts.

    Raises: BadNetwork, BadNetworks.
    """
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        _require_network(name)
    shared = [name for name in names if is_shared(name)]
    modes = [name for name in names if not is_shared(name)]
    if not shared:
        return modes[-1] if modes else "auto", "private"
    mode = modes[-1] if modes else "private"
    if len(set(shared)) > 1 or mode not in _OUTWARD:
        left_out = mode if mode not in _OUTWARD else shared[-1]
        raise BadNetworks(" --network ".join(names), left_out)
    return shared[-1], mode


def _is_near(one: str, other: str) -> bool:
    """Whether they differ by one character that is missing, wrong or too much, of at least five."""
    shorter, longer = sorted((one, other), key=len)
    if len(longer) - len(shorter) > 1 or len(other) < _LEAST_NEAR:
        return False
    pairs = zip(shorter, longer, strict=False)
    start = next((at for at, (a, b) in enumerate(pairs) if a != b), len(shorter))
    return longer[start + 1 :] in (shorter[start:], shorter[start + 1 :])


_LEAST_DISK: Final = 64 << 10
"""Bytes: an empty upper takes some blocks."""


class ViewSpec(Record, kw_only=True):
    """What a view shows and what it shares with the host.

    Raises: ValueError; Error for an empty upper or for binds that conflict.
    """

    layers: tuple[str, ...]
    """Top first: `host`, names of the store, or directories (a path with a slash, or `dir:PATH`)."""
    upper: str | None = None
    """The absolute path of the directory that keeps changes; None: they are dropped at the end."""
    frozen: tuple[Layer, ...] = ()
    """The snapshots that the upper lies on, newest first, above the layers (`snapshots`)."""
    read_only: bool = False
    """Whether changes are refused with EROFS."""
    originals: bool = False
    """Whether originals of texts are kept beside an upper that is kept (`overlay.originals`)."""
    name: str | None = None
    """None: the registry chooses one."""
    network: str = "auto"
    """One of `namespace.spec.NETWORKS`, or the name of a network that views share."""
    outward: str = "private"
    """The way outward of a view in a shared network, beside that: one of the modes `auto`, `outbound` and `private`."""
    names: Names | None = None
    """The host name, those of others, and the name servers; None: as it is without options."""
    shared: frozenset[str] = frozenset()
    """Namespaces that are the host's: of `namespace.sharing.NAMES`."""
    userns: str = "auto"
    """Which ids a user namespace of its own maps: of `namespace.identities.CHOICES`."""
    binds: tuple[Bind, ...] = ()
    ports: tuple[Port, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    devices: tuple[Device, ...] = ()
    shm_size: str | None = None
    driver: str | None = None
    """One of `drivers.NAMES`; None: what the environment or a configuration file says."""
    data_plane: bool = True
    """Of the driver `fuse`: whether native code answers the requests that need no merge."""
    no_open: NoOpen = "auto"
    """Of the driver `fuse`: whether programs open files without a request (`fuse.no_open`). `auto`: if all layers are
    of the store, and nothing else depends on OPEN."""
    confinement: Confinement = Confinement()
    """Of the commands."""
    limits: Limits | None = None
    disk: int | None = None
    """The bytes that the upper may take on its disk; None: as many as there are."""
    hidden: tuple[str, ...] = ()
    """Absolute paths in the view that an empty read-only place covers, if they exist."""
    writable: tuple[str, ...] = ()
    """Absolute paths of directories outside of which changes are refused with EROFS; none: none is refused."""
    share_home: bool = False
    """Whether a view over the host shows the keys in the user's home (`keys.KEYS`)."""
    sockets: tuple[str, ...] = ()
    """Sockets of the host's services that the view shares: names of `shared_sockets.VARIABLES`."""
    lies: Lies | None = None
    """What the view is told of the machine."""
    labels: Mapping[str, str] = {}
    """For finding the view again; they change nothing."""

    def __post_init__(self) -> None:
        if self.userns not in namespace.identities.CHOICES:
            raise ValueError(
                f"userns: {self.userns!r} is none of {', '.join(namespace.identities.CHOICES)}"
            )
        if self.upper is not None and self.read_only:
            raise ValueError("a read-only view has no upper")
        if self.writable and self.read_only:
            raise ValueError("a read-only view has nothing that is writable")
        if self.disk is not None:
            _require_limit(self.disk, read_only=self.read_only)
        if not self.layers:
            raise ValueError("layers: name one at least")
        if "uts" in self.shared and self.names is not None and self.names.hostname is not None:
            raise namespace.BadNames(
                "--hostname", self.names.hostname, "leave it out with --share uts"
            )
        if self.upper == "":  # and not the working directory
            raise UpperUnusable(self.upper, os.strerror(errno.ENOENT))
        if self.binds:
            namespace.binds.check(self.binds)

    def hostname(self, name: str) -> str:
        """The host name of the view called `name`."""
        return name if self.names is None else self.names.hostname or name


def require_list(what: str, given: object) -> None:
    """Raises: TypeError for one text, of which Python would take each character for an item."""
    if isinstance(given, str | bytes):
        raise TypeError(f"{what}: give a list, [{given!r}], not one text")


def _require_limit(disk: int, *, read_only: bool) -> None:
    if disk < _LEAST_DISK:
        raise namespace.BadLimit("--disk", disk, f"{_LEAST_DISK >> 10}k at least")
    if read_only:
        raise namespace.BadLimit("--disk", disk, "a view that is written to, without --read-only")


def describe(
    layers: Sequence[str],
    *,
    upper: str | None,
    frozen: Sequence[Layer],
    read_only: bool,
    originals: bool,
    name: str | None,
    network: str | Sequence[str],
    names: Names | None,
    shared: Iterable[str],
    userns: str,
    binds: Sequence[Bind | str],
    ports: Sequence[Port | str],
    driver: str | None,
    data_plane: bool,
    no_open: NoOpen,
    confinement: Confinement,
    limits: Limits | None,
    disk: int | None,
    tmpfs: Sequence[Tmpfs],
    devices: Sequence[Device],
    shm_size: str | None,
    hidden: Sequence[str],
    share_home: bool,
    writable: Sequence[str],
    sockets: Sequence[str],
    lies: Lies | None,
    labels: Mapping[str, str],
) -> ViewSpec:
    """The spec of what a caller of `View` names: texts are parsed, a relative upper is made absolute.

    Raises: TypeError, ValueError, Error.
    """
    for what, given in {
        "layers": layers,
        "binds": binds,
        "ports": ports,
        "hidden": hidden,
        "writable": writable,
        "sockets": sockets,
    }.items():
        require_list(what, given)
    name_of_network, outward = _networks("host" if "net" in shared else network)
    return ViewSpec(
        layers=tuple(layers),
        upper=os.path.abspath(upper) if upper else upper,
        frozen=tuple(frozen),
        read_only=read_only,
        originals=originals,
        name=name,
        network=name_of_network,
        outward=outward,
        names=names,
        shared=frozenset(shared),
        userns="host" if "user" in shared else userns,
        binds=tuple(
            namespace.parse_bind(bind) if isinstance(bind, str) else bind for bind in binds
        ),
        ports=tuple(
            port
            for given in ports
            for port in (namespace.parse_ports(given) if isinstance(given, str) else (given,))
        ),
        driver=driver,
        data_plane=data_plane,
        no_open=no_open,
        confinement=confinement,
        limits=limits,
        disk=disk,
        tmpfs=tuple(tmpfs),
        devices=tuple(devices),
        shm_size=shm_size,
        hidden=tuple(map(os.path.abspath, hidden)),
        share_home=share_home,
        writable=mountinfo.outermost(map(os.path.realpath, writable)),
        sockets=tuple(sockets),
        lies=lies,
        labels=dict(labels),
    )
