"""The effective capabilities of the calling thread (capset(2)), and of the threads and children that it starts then."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Final

from overlaykit import _native

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION: Final = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 of linux/capability.h."""
_ARGUMENT_BYTES: Final = 256
"""What `_native` takes."""


def drop(capability: int) -> bytes:
    """Take a capability below 32 out of the set. Returns: the sets as they were."""
    sets = bytearray(_ARGUMENT_BYTES)
    _native.capget(_header(), sets)
    before = bytes(sets)
    (effective,) = struct.unpack_from("=I", sets)  # the others follow
    struct.pack_into("=I", sets, 0, effective & ~(1 << capability))
    _native.capset(_header(), sets)
    return before


@contextlib.contextmanager
def without(capability: int) -> Iterator[None]:
    """The body runs without a capability below 32."""
    before = drop(capability)
    try:
        yield
    finally:
        _native.capset(_header(), bytearray(before))


def _header() -> bytearray:
    """A header that names this thread. The system calls write to it."""
    return bytearray(struct.pack("=Ii", _VERSION, 0).ljust(_ARGUMENT_BYTES, b"\0"))
