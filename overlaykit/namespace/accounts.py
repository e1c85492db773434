"""The user of a command (`-u`, `--group-add`), looked up in the view's own /etc/passwd and /etc/group.

A child that has entered the view's user namespace reads both: the daemon answers no other process. Symbolic links of
the view are followed within its root (RESOLVE_IN_ROOT of openat2(2)).
"""

from __future__ import annotations

import os

from overlaykit.beneath import open_in_root
from overlaykit.errors import Error
from overlaykit.namespace import environment
from overlaykit.record import Record
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final

    from overlaykit.namespace.environment import Environment

KEEP_GROUPS: Final = "keep-groups"
"""Of `--group-add`, as in podman: the supplementary groups of the caller stay."""
_PASSWD, _GROUP = "etc/passwd", "etc/group"
_MOST_BYTES: Final = 16 << 20
_LARGEST: Final = (1 << 32) - 2
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class UserUnknown(Error):
    message = "-u {0}: {1} is not in the view's {2}; write a name that is, or a number"


class GroupUnknown(Error):
    message = "--group-add {0}: not in the view's /etc/group; write a name that is, or a number"


class GroupsConflict(Error):
    message = "--group-add keep-groups: no other group can be added; leave the others out"


class Identity(Record, kw_only=True):
    """The user and the groups that a caller wants.

    `user`: USER[:GROUP], each a name or a number; None: the view's root. `home`: whether HOME becomes the user's.
    """

    user: str | None = None
    groups: tuple[str, ...] = ()
    home: bool = True


class Account(Record, kw_only=True):
    """A user and groups by number. `groups` is None if those of the caller stay."""

    user: int
    group: int
    groups: tuple[int, ...] | None
    home: str = "/"
    name: str | None = None

    def environment(self, entries: Environment, *, home: bool) -> Environment:
        """The environment as this user's: HOME if `home`, and USER and LOGNAME where they are set."""
        found = {"USER": self.name, "LOGNAME": self.name}
        for name, value in found.items():
            if environment.get(entries, name) is not None:
                entries = environment.replace(entries, name, value)
        return environment.replace(entries, "HOME", self.home) if home else entries


def look_up(identity: Identity, enter: Callable[[], int]) -> Account:
    """The account of a view.

    `enter` is called in a new child: it enters the view's namespaces and returns a descriptor of its root directory.
    Raises: UserUnknown, GroupUnknown, GroupsConflict.
    """
    users, groups = (_records(text) for text in _read(enter))
    text = "0" if identity.user is None else identity.user
    user, colon, group = text.partition(":")
    found = next((line for line in users if line[0] == user and len(line) > 5), None)
    if found is None and (number := _number(user)) is not None:
        found = next((line for line in users if len(line) > 5 and line[2] == str(number)), None)
        found = found or ["", "", str(number), "0", "", "/"]
    uid, gid = (None, None) if found is None else (_number(found[2]), _number(found[3]))
    if found is None or uid is None or gid is None:
        raise UserUnknown(text, repr(user), "/etc/passwd")
    if colon:
        named = _group(group, groups)
        if named is None:
            raise UserUnknown(text, repr(group), "/etc/group")
        gid = named
    return Account(
        user=uid,
        group=gid,
        groups=_supplementary(identity.groups, groups, "" if colon else found[0]),
        home=found[5] or "/",
        name=found[0] or None,
    )


def _supplementary(
    added: tuple[str, ...], groups: list[list[str]], member: str
) -> tuple[int, ...] | None:
    if KEEP_GROUPS in added:
        if len(added) > 1:
            raise GroupsConflict
        return None
    found = []
    for line in groups:
        number = _number(line[2]) if len(line) > 3 else None
        if number is not None and member and member in line[3].split(","):
            found.append(number)
    for name in added:
        number = _group(name, groups)
        if number is None:
            raise GroupUnknown(name)
        found.append(number)
    return tuple(dict.fromkeys(found))


def _group(name: str, groups: Iterable[list[str]]) -> int | None:
    for line in groups:
        if line[0] == name and len(line) > 2:
            return _number(line[2])
    return _number(name)


def _number(text: str) -> int | None:
    if text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= _LARGEST:
        return int(text)
    return None


def _records(text: bytes) -> list[list[str]]:
    lines = os.fsdecode(text).splitlines()
    return [line.split(":") for line in lines if line and not line.startswith("#")]


def _read(enter: Callable[[], int]) -> tuple[bytes, bytes]:
    """The contents of both files; empty if a file is missing or may not be read."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            root = enter()
            for path in (_PASSWD, _GROUP):
                text = read_in_root(root, path)
                _write(writer, b"%d\n" % len(text) + text)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        contents = [pipe.read(int(pipe.readline() or 0)) for _ in (_PASSWD, _GROUP)]
    os.waitpid(child, 0)
    return contents[0], contents[1]


def read_in_root(root: int, path: str) -> bytes:
    """The contents of a file below a root directory; empty if it is missing or may not be read."""
    text = b""
    with suppress(OSError):
        descriptor = open_in_root(root, path, _READ)
        while len(text) < _MOST_BYTES and (chunk := os.read(descriptor, 1 << 16)):
            text += chunk
    return text


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
