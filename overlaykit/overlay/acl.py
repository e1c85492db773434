"""ACLs as attributes: their ids are mapped as owners are.

Layout: linux/posix_acl_xattr.h. The entry of an id that is not mapped is left out of a list that programs read: for
such an id the kernel refuses the whole list, and with it every access to the file. A process with that id cannot be a
caller: FUSE serves only callers of the mount's user namespace.
"""

from __future__ import annotations

import errno
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

    from overlaykit.overlay.owners import Ids, Owners

_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_USER: Final = 0x02
_GROUP: Final = 0x08


def shown(value: bytes, owners: Owners, *, idmapped: bool = False) -> bytes:
    """Map a stored list to one that programs read. `idmapped`: the list is of a lower on an idmapped mount."""
    return _mapped(value, owners, lambda ids, number: ids.shown_in_acl(number, idmapped=idmapped))


def copied(value: bytes, owners: Owners) -> bytes:
    """Map a list of an idmapped lower to one to store, without the entries whose ids cannot be stored."""
    return _mapped(value, owners, lambda ids, number: ids.copied_in_acl(number))


def stored(value: bytes, owners: Owners) -> bytes:
    """Map a list that a program sets to one to store.

    Raises: OSError (EINVAL) for an id that cannot be stored.
    """
    return _mapped(value, owners, lambda ids, number: ids.stored_in_acl(number))


def names_others(value: bytes, uid: int, gid: int) -> bool:
    """Whether a list has an entry of another user or group than these."""
    own = {_USER: uid, _GROUP: gid}
    return any(number != own.get(tag, number) for tag, _, number in _entries(value))


def _mapped(value: bytes, owners: Owners, change: Callable[[Ids, int], int | None]) -> bytes:
    """A list with ids mapped by `change`, without the entries for which it returns None."""
    entries = []
    for tag, permissions, number in _entries(value):
        ids = _ids(tag, owners)
        new = number if ids is None else change(ids, number)
        if new is not None:
            entries.append(_ENTRY.pack(tag, permissions, new))
    return value[: _HEADER.size] + b"".join(entries)


def _ids(tag: int, owners: Owners) -> Ids | None:
    """The mapping for the id of an entry with this tag; None: the entry has no id."""
    return {_USER: owners.users, _GROUP: owners.groups}.get(tag)


def _entries(value: bytes) -> Iterator[tuple[int, int, int]]:
    """Tag, permissions and id of each entry.

    Raises: OSError (EINVAL) if `value` is no ACL.
    """
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    yield from _ENTRY.iter_unpack(value[_HEADER.size :])
