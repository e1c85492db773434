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
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
"""Of linux/prctl.h."""


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


def keep_across_execution() -> None:
    """Have a program that this process executes keep its capabilities, also as a user who is not root (ambient ones).

    Raises: OSError.
    """
    sets = bytearray(_ARGUMENT_BYTES)
    _native.capget(_header(), sets)
    words = list(
        struct.unpack_from("=6I", sets)
    )  # effective, permitted, inheritable, and of those above 31
    words[2], words[5] = words[1], words[4]
    struct.pack_into("=6I", sets, 0, *words)
    _native.capset(_header(), sets)
    permitted = words[1] | words[4] << 32
    for number in range(permitted.bit_length()):
        if permitted >> number & 1:
            _native.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)
