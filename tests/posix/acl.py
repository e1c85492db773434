"""POSIX ACLs as their extended attributes hold them (acl(5), linux/posix_acl_xattr.h)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

NO_ID = 0xFFFFFFFF
"""The id of entries without one; in the entry of a user or group, an id that is not mapped."""

_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NONE: Mapping[int, int] = MappingProxyType({})


def acl(
    owner: int,
    group: int,
    other: int,
    *,
    users: Mapping[int, int] = _NONE,
    groups: Mapping[int, int] = _NONE,
    mask: int | None = None,
) -> bytes:
    """An ACL with these permissions; `users` and `groups`: id to permissions."""
    entries = [
        (_USER_OBJ, owner, NO_ID),
        *((_USER, permissions, uid) for uid, permissions in users.items()),
        (_GROUP_OBJ, group, NO_ID),
        *((_GROUP, permissions, gid) for gid, permissions in groups.items()),
        *([] if mask is None else [(_MASK, mask, NO_ID)]),
        (_OTHER, other, NO_ID),
    ]
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *one) for one in entries)
