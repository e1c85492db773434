"""The ids that a new user namespace maps, and how its maps are written (user_namespaces(7)).

    caller                                      ids inside
    root of a user namespace or of a container  all ids of its namespace, unchanged
    an ordinary user with subordinate ids       its own as 0, its subordinate ids (subuid(5)) from 1 on
    any other user                              its own as 0

The first two kinds of map can be written only from outside the namespace; subordinate ids only by newuidmap(1).
"""

from __future__ import annotations

import os
import pwd

from overlaykit import privilege
from overlaykit.errors import Error
from overlaykit.record import Record
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final, Literal

CHOICES: Final = ("auto", "single", "subids", "keep-id", "host")
"""Of `--userns`: all ids that can be mapped, the caller's alone, subordinate ids too, the caller's as it is, no user
namespace."""

KINDS: Final = ("uid", "gid")
_HELPERS: Final = {"uid": "newuidmap", "gid": "newgidmap"}
_MAY_MAP_ALL: Final = {
    privilege.CAP_SETUID,
    privilege.CAP_SETGID,
    # Required to map uid 0 of the parent namespace.
    privilege.CAP_SETFCAP,
}
_MOST_EXTENTS: Final = 340
"""Lines of one map."""


class UserNamespaceNeeded(Error):
    message = (
        "--userns host, --share user: only root with all capabilities has views in the host's user namespace: leave"
        " it out"
    )


class UserNamespaceOfHost(Error):
    message = "--userns {0}: root's views are in the host's user namespace: leave it out, or be an ordinary user"


class NoSubordinateIds(Error):
    message = "--userns subids: {0}: {1}, or use --userns single"


class Extent(Record):
    """A line of a map: `count` ids from `inside` on are those of the parent namespace from `outside` on."""

    inside: int
    outside: int
    count: int

    def __str__(self) -> str:
        return f"{self.inside} {self.outside} {self.count}"


class Identities(Record):
    """The two maps, and their writer: the process itself, one in the parent namespace, or newuidmap and newgidmap."""

    users: tuple[Extent, ...]
    groups: tuple[Extent, ...]
    writer: Literal["self", "parent", "helpers"] = "self"
    required: bool = False
    """Whether it is an error if they cannot be written; else the caller alone is mapped."""

    def extents(self, kind: str) -> tuple[Extent, ...]:
        return self.users if kind == "uid" else self.groups


def caller_only() -> Identities:
    """The maps with the caller as root and no other id."""
    return Identities((Extent(0, os.geteuid(), 1),), (Extent(0, os.getegid(), 1),))


def unchanged() -> Identities:
    """The maps with the caller's id as it is, without the rights of root once a program is executed."""
    if os.geteuid() == 0:
        return available()
    users, groups = os.geteuid(), os.getegid()
    return Identities((Extent(users, users, 1),), (Extent(groups, groups, 1),))


def available() -> Identities:
    """The maps with all ids that the caller may map. Requires: the new namespace is not entered yet."""
    if os.geteuid() == 0:
        if privilege.capabilities() >= _MAY_MAP_ALL:
            return Identities(_mapped_here("uid"), _mapped_here("gid"), "parent")
        return caller_only()
    users, groups = _subordinate("uid"), _subordinate("gid")
    if not (users and groups and all(map(_installed, _HELPERS.values()))):
        return caller_only()
    return Identities(
        _from_one_on(Extent(0, os.geteuid(), 1), users),
        _from_one_on(Extent(0, os.getegid(), 1), groups),
        "helpers",
    )


def chosen(kind: str) -> Identities:
    """The maps for a kind of CHOICES. Requires: the caller needs a user namespace, which is not entered yet.

    Raises: UserNamespaceNeeded, NoSubordinateIds.
    """
    if kind == "host":
        raise UserNamespaceNeeded
    if kind == "single":
        return caller_only()
    if kind == "keep-id":
        return unchanged()
    found = available()
    if kind == "subids" and found.writer != "helpers":
        for one in KINDS:
            if not _subordinate(one):
                what = f"you have no range in /etc/sub{one}"
                raise NoSubordinateIds(what, "have root add one ('usermod --add-subuids')")
        raise NoSubordinateIds("newuidmap is missing", "install the package uidmap")
    return found.replace(required=kind == "subids")


def write(process: int, kind: str, text: str) -> None:
    """Write the `uid` or `gid` map of a process's user namespace.

    Raises:
      OSError: as open(2) and write(2).
    """
    descriptor = os.open(f"/proc/{process}/{kind}_map", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def write_from_outside(process: int, identities: Identities) -> None:
    """Write both maps of a process's user namespace, from its parent; a refused map stays empty."""
    for kind in KINDS:
        extents = identities.extents(kind)
        with suppress(OSError):
            if identities.writer == "parent":
                write(process, kind, "\n".join(map(str, extents)))
            else:
                numbers = [number for extent in extents for number in str(extent).split()]
                os.spawnlp(os.P_WAIT, _HELPERS[kind], _HELPERS[kind], str(process), *numbers)


def _mapped_here(kind: str) -> tuple[Extent, ...]:
    extents = privilege.extents(kind)[:_MOST_EXTENTS]
    return tuple(Extent(inside, inside, count) for inside, _, count in extents)


def _subordinate(kind: str) -> list[tuple[int, int]]:
    """The ranges of this user in /etc/subuid (subgid), listed by name or uid: first id and count."""
    user = os.geteuid()
    names = {str(user)}
    with suppress(KeyError):
        names.add(pwd.getpwuid(user).pw_name)
    ranges = []
    with suppress(OSError), open(f"/etc/sub{kind}", encoding="utf-8", errors="replace") as file:
        for line in file:
            owner, _, numbers = line.strip().partition(":")
            first, _, count = numbers.partition(":")
            if owner in names and first.isdecimal() and count.isdecimal() and int(count):
                ranges.append((int(first), int(count)))
    return ranges[: _MOST_EXTENTS - 1]


def _installed(program: str) -> bool:
    directories = os.environ.get("PATH", os.defpath).split(":")
    return any(os.access(os.path.join(directory, program), os.X_OK) for directory in directories)


def _from_one_on(own: Extent, ranges: Iterable[tuple[int, int]]) -> tuple[Extent, ...]:
    extents = [own]
    following = 1
    for first, count in ranges:
        extents.append(Extent(following, first, count))
        following += count
    return tuple(extents)
