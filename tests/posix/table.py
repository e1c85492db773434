"""The table of POSIX behaviours: the form of an entry, and the contents of its directory.

A behaviour is a function without arguments that makes its calls in the current directory and asserts what POSIX and
the Linux manual pages promise. The directory is new, on the file system under test, and holds what `lower` names; on an
overlay that is in a read-only layer. The function runs in its own process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

Identity: TypeAlias = Literal["root", "userns", "ordinary"]
"""Root; an ordinary user as the root of a user namespace; an ordinary user without one, who is bound by modes."""

Check: TypeAlias = Callable[[], object]

EVERYONE: tuple[Identity, ...] = ("root", "userns", "ordinary")
PRIVILEGED: tuple[Identity, ...] = ("root", "userns")
"""For operations that need a capability, at least over one's own files: to override modes, to mount."""
ROOT_ONLY: tuple[Identity, ...] = ("root",)
"""For what a user namespace with one mapped uid does not have: other owners, devices, trusted xattrs."""


@dataclass(frozen=True)
class File:
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    mtime_ns: int | None = None
    """Also the access time; None: now."""
    size: int | None = None
    """Extended to this size by a hole at the end."""


@dataclass(frozen=True)
class Dir:
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    mtime_ns: int | None = None
    opaque: bool = False
    """Hides the directory of the same name in deeper layers."""


@dataclass(frozen=True)
class Symlink:
    target: str


@dataclass(frozen=True)
class Link:
    """Another name of the file `to`, in the same layer and named before it."""

    to: str


@dataclass(frozen=True)
class Fifo:
    mode: int = 0o644


@dataclass(frozen=True)
class Device:
    """A character device."""

    major: int
    minor: int
    mode: int = 0o666


@dataclass(frozen=True)
class Whiteout:
    """Hides the same name in deeper layers."""


Entry: TypeAlias = File | Dir | Symlink | Link | Fifo | Device | Whiteout
Layer: TypeAlias = Mapping[str, Entry]


@dataclass(frozen=True)
class Instead:
    """What a system does instead, and why it may."""

    reason: str
    check: Check
    """Asserts what the system does; a difference is tested, not skipped."""


@dataclass(frozen=True)
class Behaviour:
    """One entry of the table."""

    name: str
    check: Check
    layers: tuple[Layer, ...] = ()
    """The contents of the layers, top first; at most `DEPTH`."""
    identities: tuple[Identity, ...] = EVERYONE
    differs: Mapping[str, Instead] = field(default_factory=dict)
    """Keys: a system ("kernel") or a system and an identity ("kernel-userns")."""
    read_only: bool = False
    """The view has no upper."""
    remount: bool = False
    """`check` is a generator: the view is unmounted and mounted again where it yields."""

    def check_on(self, system: str, identity: Identity) -> Check:
        """The check for this system."""
        instead = self.differs.get(f"{system}-{identity}") or self.differs.get(system)
        return self.check if instead is None else instead.check


DEPTH = 3
"""The number of read-only layers of the table's overlays."""

TABLE: dict[str, Behaviour] = {}


def behaviour(
    *layers: Layer,
    lower: Layer | None = None,
    identities: tuple[Identity, ...] = EVERYONE,
    differs: Mapping[str, Instead] | None = None,
    read_only: bool = False,
    remount: bool = False,
) -> Callable[[Check], Check]:
    """Enter the decorated function `check_NAME` into the table.

    `layers`: the contents of the read-only layers, top first; `lower`: of the only one.
    """
    if lower is not None:
        layers = (*layers, lower)
    assert len(layers) <= DEPTH

    def enter(check: Check) -> Check:
        name = check.__name__.removeprefix("check_")
        assert name not in TABLE, name
        TABLE[name] = Behaviour(name, check, layers, identities, differs or {}, read_only, remount)
        return check

    return enter


def merged(layers: tuple[Layer, ...]) -> Layer:
    """The merge of the layers: the content of the plain directory."""
    result: dict[str, Entry] = {}
    for layer in reversed(layers):
        deeper = list(result)
        for path, entry in layer.items():
            if not isinstance(entry, Dir) or entry.opaque:
                for hidden in deeper:
                    if hidden.startswith(path + "/"):
                        result.pop(hidden, None)
            result.pop(path, None)
            if isinstance(entry, Dir):
                result[path] = replace(entry, opaque=False)
            elif not isinstance(entry, Whiteout):
                result[path] = entry
    return result
