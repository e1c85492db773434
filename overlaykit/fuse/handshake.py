"""The first request: what the kernel and we agree on, where libfuse and pyfuse3 leave no say.

pyfuse3 asks for few of the kernel's features and has no option for the rest. So it answers INIT to us, over a socket;
we change its answer to what we want and pass that on to the kernel; then the socket's descriptor becomes /dev/fuse
itself, and from there on the two talk directly. Source of the layout: include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final

import pyfuse3
import trio

from overlaykit import _native

_INIT: Final = 26
_BUFFER: Final = (
    1 << 17
)  # more than any INIT; the kernel wants at least FUSE_MIN_READ_BUFFER, 8 KiB

_IN_HEADER: Final = struct.Struct("=IIQQIIIHH")
_INIT_IN: Final = struct.Struct("=IIIII")
_OUT_HEADER: Final = struct.Struct("=IiQ")
_INIT_OUT: Final = struct.Struct("=IIIIHHIIHHI")

_LOW, _HIGH = 3, 10
"""Where the answer has the lower and the upper half of the flags."""

_DONT_MASK: Final = 1 << 6
"""The caller's umask comes along with a new file's mode, unapplied: a default ACL takes its place (acl(5))."""
_CACHE_SYMLINKS: Final = 1 << 23
"""The kernel keeps what symlinks lead to; they never change."""

_SETXATTR_EXT: Final = 1 << 29
"""A SETXATTR says whether an ACL clears the set-group-ID bit (Linux 5.13). Needs an adapted session."""

_ATOMIC_O_TRUNC: Final = 1 << 3
"""Opening with O_TRUNC truncates. Not wanted: the kernel then does it once more by itself (native/session.c)."""

_ASYNC_DIO: Final = 1 << 15
"""Direct writes complete asynchronously. Not wanted: the kernel then leaves pages in its cache that were read from the
file during the write (generic_file_direct_write drops them after a synchronous write only)."""

_UNWANTED: Final = _ATOMIC_O_TRUNC | _ASYNC_DIO

_INIT_EXT: Final = 1 << 30
"""There are flags beyond 32 bits (Linux 5.17)."""

_NO_EXPORT_SUPPORT: Final = 1 << 38
"""Files have no handles to be opened by (Linux 6.9): a number means nothing once the kernel has forgotten the file."""

_WANTED: Final = _DONT_MASK | _CACHE_SYMLINKS | _SETXATTR_EXT | _NO_EXPORT_SUPPORT


class Handshake:
    """Stands between pyfuse3 and the session `device` until INIT is answered. `fd` is what pyfuse3 is to be given."""

    def __init__(self, device: int) -> None:
        self._device = device
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self.fd = theirs.detach()

    async def complete(self) -> None:
        """Let pyfuse3 answer INIT, and the kernel have the answer. Afterwards `fd` is the device."""
        request = os.read(self._device, _BUFFER)
        fields = _IN_HEADER.unpack_from(request)
        if fields[1] != _INIT:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO), "/dev/fuse")
        offered = _offered(request[_IN_HEADER.size :])
        if not _native.adapts_session():
            offered &= ~_SETXATTR_EXT
        with self._socket:
            self._socket.setblocking(False)
            self._socket.send(request)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pyfuse3.main)
                await trio.lowlevel.wait_readable(self._socket)
                answer = bytearray(self._socket.recv(_BUFFER))
                nursery.cancel_scope.cancel()  # it has nothing more to read here; it starts again on the device
        if len(answer) >= _OUT_HEADER.size + _INIT_OUT.size:
            flags = _agree(answer, offered)
            if flags & _SETXATTR_EXT:
                _native.expect_setxattr_flags()
        os.write(self._device, answer)
        os.dup2(self._device, self.fd, inheritable=False)
        os.close(self._device)


def _offered(request: bytes) -> int:
    """The flags of an INIT (struct fuse_init_in), of which an old kernel sends 32 bits."""
    low: int
    high: int
    _, _, _, low, high = _INIT_IN.unpack_from(request.ljust(_INIT_IN.size, b"\0"))
    return low | (high << 32 if low & _INIT_EXT else 0)


def _agree(answer: bytearray, offered: int) -> int:
    """Put the flags that are wanted of those `offered` into pyfuse3's answer (struct fuse_init_out); all of them."""
    first: list[int] = list(_INIT_OUT.unpack_from(answer, _OUT_HEADER.size))
    flags = first[_LOW] | (first[_HIGH] << 32 if first[_LOW] & _INIT_EXT else 0)
    flags = (flags | _WANTED & offered) & ~_UNWANTED
    if flags >> 32:
        flags |= _INIT_EXT
    first[_LOW], first[_HIGH] = flags & 0xFFFFFFFF, flags >> 32
    _INIT_OUT.pack_into(answer, _OUT_HEADER.size, *first)
    return flags
