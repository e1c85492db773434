"""Access control lists as attributes: the ids in them are shown and stored as owners are.

Layout: linux/posix_acl_xattr.h. An id that programs cannot name is left out of a list that they read: the kernel
refuses the whole list, and with it every access to the file, for an id that the mount's user namespace does not know.
Its bearer cannot be a caller there (FUSE serves callers of the mount's user namespace alone).
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from overlaykit.overlay.owners import Ids, Owners

_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_USER: Final = 0x02
_GROUP: Final = 0x08


def shown(value: bytes, owners: Owners, *, idmapped: bool = False) -> bytes:
    """A list as programs read it, of one as it is stored; `idmapped`: in a lower that has mapped it already."""
    return _changed(value, owners, lambda ids, number: ids.named(number, idmapped=idmapped))


def copied(value: bytes, owners: Owners) -> bytes:
    """A list to be stored, of one as an idmapped lower shows it, without the ids that cannot be stored."""
    return _changed(value, owners, lambda ids, number: ids.kept(number))


def stored(value: bytes, owners: Owners) -> bytes:
    """A list to be stored, of one as a program gave it. Raises OSError (EINVAL) for an id that cannot be stored."""
    return _changed(value, owners, lambda ids, number: ids.given(number))


def _changed(value: bytes, owners: Owners, change: Callable[[Ids, int], int | None]) -> bytes:
    """A list with other ids, without the entries for which there is none."""
    entries = []
    for tag, permissions, number in _entries(value):
        ids = _ids(tag, owners)
        new = number if ids is None else change(ids, number)
        if new is not None:
            entries.append(_ENTRY.pack(tag, permissions, new))
    return value[: _HEADER.size] + b"".join(entries)


def _ids(tag: int, owners: Owners) -> Ids | None:
    """What the id of such an entry is one of; None for an entry without."""
    return {_USER: owners.users, _GROUP: owners.groups}.get(tag)


def _entries(value: bytes) -> Iterator[tuple[int, int, int]]:
    """Tag, permissions and id of each. Raises OSError (EINVAL) for what is no list."""
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    yield from _ENTRY.iter_unpack(value[_HEADER.size :])
