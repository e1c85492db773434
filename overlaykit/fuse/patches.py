"""The four patches of pyfuse3, one comment each on what it is for.

1. The INIT handshake (`Handshake`). pyfuse3 asks for few of the kernel's features, and libfuse for two that lose data;
   neither has an option for the others. So pyfuse3 answers INIT over a socket pair, its reply is changed here and
   written to /dev/fuse, and then /dev/fuse takes the place of the socket's descriptor.
2. The poller in place of the module `trio` (`replace_trio`). A request costs three turns of trio's scheduler, more than
   most replies do. `poller` says what it does instead. pyfuse3.asyncio replaces the same name.
3. Interposed symbols of libfuse (`interpose_libfuse`, native/session.c), for what pyfuse3 cannot express:
   - fuse_session_receive_buf: requests come from the data plane. READDIRPLUS and FSYNCDIR carry the nodeid as the file
     handle, and so does READDIR, which comes as a READDIRPLUS with a bit that says so (`split_listing`). The handle of
     a WRITE has bits that say whether it clears the set-ID bits, and whether it passes the cache by (`split_handle`);
     the pid of a SETATTR and of a SETXATTR has the first one, too (`clears_set_ids`).
   - fuse_reply_open, fuse_reply_create: a handle may have the kernel's number of a file below (`backed_handle`).
   - fuse_add_direntry_plus: an entry of the generation NAME_ONLY (`mark_name_only`) has a name and an inode number and
     no nodeid, so the kernel looks it up only when it needs it. All entries for a READDIR are of the generation
     PLAIN_ENTRY (`mark_plain`).
4. A module `importlib.metadata` that knows no package (`import_pyfuse3`). pyfuse3 asks it for its own version only, and
   to load it takes a tenth of a cold start.

The data plane (native/plane.c) reads the requests, after INIT; `plane` says what it may answer. One that also answers
INIT would take the place of this module.
"""

from __future__ import annotations

import errno
import importlib
import os
import socket
import struct
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from overlaykit import _native

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import NoReturn

    from pyfuse3 import EntryAttributes, RequestContext

    from overlaykit.fuse.poller import Poller

# include/uapi/linux/fuse.h

_INIT: Final = 26
_BUFFER_BYTES: Final = 1 << 17
"""More than any INIT. The kernel requires at least FUSE_MIN_READ_BUFFER, 8 KiB."""

_IN_HEADER: Final = struct.Struct("=IIQQIIIHH")
_INIT_IN: Final = struct.Struct("=IIIII")
_OUT_HEADER: Final = struct.Struct("=IiQ")
_INIT_OUT: Final = struct.Struct("=IIIIHHIIHHI")

_FLAGS, _FLAGS2 = 3, 10
"""Fields of fuse_init_out with the lower and the upper half of the flags."""

_STACK_DEPTH: Final = struct.Struct("=I")
_STACK_DEPTH_OFFSET: Final = 36
"""max_stack_depth of fuse_init_out."""

_DONT_MASK: Final = 1 << 6
"""A new file's mode comes without the caller's umask applied, and the umask beside it: a default ACL replaces the umask
(acl(5))."""

_CACHE_SYMLINKS: Final = 1 << 23
"""The kernel caches the targets of symlinks, which never change."""

_SETXATTR_EXT: Final = 1 << 29
"""A SETXATTR says whether an ACL clears the set-group-ID bit (Linux 5.13). Requires an interposed libfuse."""

_ATOMIC_O_TRUNC: Final = 1 << 3
"""Opening with O_TRUNC truncates. Unwanted: the kernel truncates its cache once more afterwards (native/session.c)."""

_ASYNC_DIO: Final = 1 << 15
"""Direct writes complete asynchronously. Unwanted: the kernel then keeps pages that were read during the write
(generic_file_direct_write drops them after a synchronous write only)."""

_UNWANTED: Final = _ATOMIC_O_TRUNC | _ASYNC_DIO

_HANDLE_KILLPRIV_V2: Final = 1 << 28
"""A request says whether it clears the set-ID bits, and the daemon does that (Linux 5.12). The kernel then asks for a
file's capability once, not before each write (SB_NOSEC), and removes it itself. Requires an interposed libfuse."""

_INIT_EXT: Final = 1 << 30
"""There are flags beyond 32 bits (Linux 5.17)."""

NO_EXPORT_SUPPORT: Final = 1 << 38
"""Files have no file handles (Linux 6.9): a nodeid means nothing once the kernel has forgotten it."""

_PASSTHROUGH: Final = 1 << 37
"""Files may be registered that the kernel reads and writes itself (Linux 6.9). Excludes the writeback cache."""

_WRITEBACK_CACHE: Final = 1 << 16

_READDIRPLUS_AUTO: Final = 1 << 14
"""The kernel asks for attributes with the names (READDIRPLUS) where a listing begins, and after lookups in the
directory; else for names only (READDIR), a fifth of the bytes (fs/fuse/readdir.c: fuse_use_readdirplus). Requires an
interposed libfuse."""

_MINOR_WITH_ROOM: Final = 44
"""Unwanted before Linux 6.16: one request has room for 25 entries with attributes, whatever room the program has. Where
a program reads all names before it looks at the files, the rest of a small directory would take a lookup each."""

_OF_INTERPOSED: Final = _SETXATTR_EXT | _HANDLE_KILLPRIV_V2 | _READDIRPLUS_AUTO
_WANTED: Final = _DONT_MASK | _CACHE_SYMLINKS | _OF_INTERPOSED | NO_EXPORT_SUPPORT


def interpose_libfuse() -> None:
    """Put the symbols of native/session.c in front of libfuse's. Requires: pyfuse3 is not imported yet."""
    assert "pyfuse3" not in sys.modules
    _native.adapt_session()


def import_pyfuse3() -> None:
    """Import pyfuse3 without importlib.metadata. Its version is 'unknown' then."""
    name = "importlib.metadata"
    if name not in sys.modules:
        placeholder = ModuleType(name)
        vars(placeholder).update(version=_version, PackageNotFoundError=ImportError)
        sys.modules[name] = placeholder
        try:
            importlib.import_module("pyfuse3")
        finally:
            del sys.modules[name]


def _version(package: str) -> NoReturn:
    raise ImportError(package)


def is_libfuse_interposed() -> bool:
    """Whether pyfuse3 has received INIT through the interposed symbols: it may be linked so that it does not."""
    return _native.is_session_adapted()


def mark_name_only(entry: EntryAttributes) -> EntryAttributes:
    """Make a READDIRPLUS entry a name with an inode number (0: unknown), of which the kernel caches nothing."""
    entry.generation = _native.NAME_ONLY
    return entry


def mark_plain(entry: EntryAttributes) -> EntryAttributes:
    """Make an entry one for a READDIR: its name, inode number (0: unknown) and kind."""
    entry.generation = _native.PLAIN_ENTRY
    return entry


def split_listing(handle: int) -> tuple[int, bool]:
    """The nodeid in the file handle of a READDIRPLUS, and whether it is a READDIR: of `mark_plain` entries only."""
    return handle & ~_native.PLAIN_LISTING, bool(handle & _native.PLAIN_LISTING)


def backed_handle(handle: int, number: int) -> int:
    """The file handle of a reply, below 2**32, whose file the kernel reads and writes itself, by its number of it."""
    return handle | number << _native.BACKING_SHIFT | _native.BACKED


class Written(NamedTuple):
    """What the file handle of a WRITE says.

    `handle`: the file's. `clears_set_ids`: whether the write clears the set-ID bits. `past_cache`: whether it does not
    come from the kernel's cache.
    """

    handle: int
    clears_set_ids: bool
    past_cache: bool


def split_handle(handle: int) -> Written:
    return Written(
        handle & ~(_native.CLEARS_SET_IDS | _native.PAST_CACHE),
        bool(handle & _native.CLEARS_SET_IDS),
        bool(handle & _native.PAST_CACHE),
    )


def clears_set_ids(ctx: RequestContext) -> bool:
    """Whether a SETATTR or a SETXATTR clears the set-ID bits, or its ACL the set-group-ID bit."""
    return bool(ctx.pid & _native.PID_CLEARS_SET_IDS)


def pid_of(context: object) -> int:
    """The process id of a `RequestContext`'s program; 0: the request is the kernel's own, or this is no context."""
    pid: int = getattr(context, "pid", 0)
    return pid & ~_native.PID_CLEARS_SET_IDS


def replace_trio(module: ModuleType, poller: Poller) -> None:
    """Have pyfuse3, passed as `module`, wait through the poller."""
    module.trio = poller  # type: ignore[attr-defined]


class Handshake:
    """The INIT request of the session `device`. `fd` is the descriptor for pyfuse3: /dev/fuse once it is complete."""

    def __init__(self, device: int) -> None:
        self._device = device
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self.fd = theirs.detach()

    async def complete(
        self, serve: Callable[[], Awaitable[None]], *, wants_passthrough: bool
    ) -> bool:
        """Pass INIT to pyfuse3 and its reply, changed, to the kernel. `serve` is pyfuse3's main loop.

        Returns: whether passthrough is agreed on, in place of the writeback cache.
        """
        passes_through = False
        request = _init_request(self._device)
        with self._socket:
            self._socket.setblocking(False)
            self._socket.send(request)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                await trio.lowlevel.wait_readable(self._socket)
                reply = bytearray(self._socket.recv(_BUFFER_BYTES))
                # No further request comes over the socket. The main loop starts again on the device.
                nursery.cancel_scope.cancel()
        if len(reply) >= _OUT_HEADER.size + _INIT_OUT.size:
            offered = _offered(request[_IN_HEADER.size :])
            if not is_libfuse_interposed():
                offered &= ~_OF_INTERPOSED
            passes_through = wants_passthrough and bool(offered & _PASSTHROUGH)
            flags = _agree(reply, offered, passes_through=passes_through)
            if flags & _SETXATTR_EXT:
                _native.enable_setxattr_ext()
        os.write(self._device, reply)
        os.dup2(self._device, self.fd, inheritable=False)
        os.close(self._device)
        return passes_through


def offered_by(device: int) -> int:
    """The flags that the kernel offers a new session, whose INIT is read."""
    return _offered(_init_request(device)[_IN_HEADER.size :])


def _init_request(device: int) -> bytes:
    request = os.read(device, _BUFFER_BYTES)
    if _IN_HEADER.unpack_from(request)[1] != _INIT:
        raise OSError(errno.EPROTO, os.strerror(errno.EPROTO), "/dev/fuse")
    return request


def _offered(request: bytes) -> int:
    """The flags of an INIT (struct fuse_init_in) that are of use. An old kernel sends 32 bits."""
    minor: int
    low: int
    high: int
    _, minor, _, low, high = _INIT_IN.unpack_from(request.ljust(_INIT_IN.size, b"\0"))
    if minor < _MINOR_WITH_ROOM:
        low &= ~_READDIRPLUS_AUTO
    return low | (high << 32 if low & _INIT_EXT else 0)


def _agree(reply: bytearray, offered: int, *, passes_through: bool) -> int:
    """Change the flags of pyfuse3's reply (struct fuse_init_out): add `_WANTED` if `offered`, drop `_UNWANTED`.

    `passes_through`: have passthrough to file systems that are not stacked themselves, not the writeback cache.
    Returns: the flags agreed on.
    """
    fields: list[int] = list(_INIT_OUT.unpack_from(reply, _OUT_HEADER.size))
    flags = fields[_FLAGS] | (fields[_FLAGS2] << 32 if fields[_FLAGS] & _INIT_EXT else 0)
    flags = (flags | _WANTED & offered) & ~_UNWANTED
    if passes_through:
        flags = flags & ~_WRITEBACK_CACHE | _PASSTHROUGH
        _STACK_DEPTH.pack_into(reply, _OUT_HEADER.size + _STACK_DEPTH_OFFSET, 1)
    if flags >> 32:
        flags |= _INIT_EXT
    fields[_FLAGS], fields[_FLAGS2] = flags & 0xFFFFFFFF, flags >> 32
    _INIT_OUT.pack_into(reply, _OUT_HEADER.size, *fields)
    return flags
