"""The three patches of pyfuse3, and why each has to be.

1. The poller in place of the module `trio` (`replace_trio`). A request costs three turns of trio's scheduler, more than
   most replies do. `poller` says what it does instead. pyfuse3.asyncio replaces the same name.
2. Interposed symbols of libfuse (`interpose_libfuse`, native/session.c), for what pyfuse3 cannot express:
   - fuse_session_receive_buf: requests come from the data plane, which has answered INIT itself: pyfuse3 asks for few
     of the kernel's features, and libfuse for two that lose data. READDIRPLUS and FSYNCDIR carry the nodeid as the file
     handle, and so does READDIR, which comes as a READDIRPLUS with a bit that says so (`split_listing`). The handle of
     a WRITE has bits that say whether it clears the set-ID bits, and whether it passes the cache by (`split_handle`);
     the pid of a SETATTR and of a SETXATTR has the first one, too (`clears_set_ids`).
   - fuse_reply_open, fuse_reply_create: a handle may have the kernel's number of a file below (`backed_handle`).
   - fuse_add_direntry_plus: an entry of the generation NAME_ONLY (`mark_name_only`) has a name and an inode number and
     no nodeid, so the kernel looks it up only when it needs it. All entries for a READDIR are of the generation
     PLAIN_ENTRY (`mark_plain`).
3. A module `importlib.metadata` that knows no package (`import_pyfuse3`). pyfuse3 asks it for its own version only, and
   to load it takes a tenth of a cold start.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from overlaykit import _native

if TYPE_CHECKING:
    from typing import NoReturn

    from pyfuse3 import EntryAttributes, RequestContext

    from overlaykit.fuse.poller import Poller


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
