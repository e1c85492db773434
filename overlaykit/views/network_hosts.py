"""The /etc/hosts of a view in a shared network: a file of its entry, which the view has mounted.

The names of the network's members stand between two lines of ours; all else is the view's. Each new member writes its
name into the files of the others, in place: a mounted file cannot be replaced. It goes with the member's
daemon, or with its entry, or with the next member.
"""

from __future__ import annotations

import os

from overlaykit.fuse.cleanup import HOSTS, LONGEST_HOSTS
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

TARGET: Final = "/etc/hosts"

USUAL: Final = b"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
_MODE: Final = 0o644


def path(entry: str) -> str:
    return os.path.join(entry, HOSTS)


def write(entry: str, own: bytes, network: str, names: Sequence[tuple[str, str]]) -> None:
    """Make the file of an entry. `own`: the view's /etc/hosts; `names`: address and name of each member."""
    file = os.open(path(entry), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        os.fchmod(file, _MODE)
        os.write(file, replaced(own, network, names))
    finally:
        os.close(file)


def update(entry: str, network: str, names: Sequence[tuple[str, str]]) -> None:
    """Write the names into the file of another member, if it has one yet."""
    with suppress(OSError):
        file = os.open(path(entry), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            before = os.pread(file, LONGEST_HOSTS + 1, 0)
            if len(before) <= LONGEST_HOSTS:
                text = replaced(before, network, names)
                os.pwrite(file, text, 0)
                os.ftruncate(file, len(text))
        finally:
            os.close(file)


def replaced(text: bytes, network: str, names: Sequence[tuple[str, str]]) -> bytes:
    """The text with these names in place of those it has of the network; at its end if it has none."""
    first, last = (
        f"# overlaykit network {network}: {word}\n".encode() for word in ("begin", "end")
    )
    before, found, rest = text.partition(first)
    after = rest.partition(last)[2] if found and last in rest else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    lines = "".join(line(address, name) for address, name in names).encode()
    return before + first + lines + last + after


def line(address: str, name: str) -> str:
    """That of a member."""
    return f"{address} {name}\n"
