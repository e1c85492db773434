"""Originals: what files of the layers held when a view first copied them up, for a three-way merge later.

They are kept if the work directory holds the directory `originals`, which is made before the first mount. An original
is that of a regular file of at most 1 MiB without a NUL. Its name is the origin that the copy in the upper has: so it
is found under every name of the copy, and never for another file, or for another state of the same one.

A new file that takes the name of one of a layer (`sed -i`, editors, `git checkout`) has no origin. The original of that
is named by its path in the layers and the time at which the view began, and kept only if it has not changed since then.

Nothing is synced: the checksum tells an original that a crash has cut off. One that cannot be kept is none.
"""

from __future__ import annotations

import hashlib
import os
import zlib

from overlaykit import attributes, codec
from overlaykit.overlay import began
from overlaykit.overlay.beside import work_beside
from overlaykit.overlay.markers import OVERLAY_PREFIXES, xattr_names
from overlaykit.record import Record
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.overlay.began import Began
    from overlaykit.overlay.markers import Origin

NAME: Final = b"originals"
MOST: Final = 1 << 20
"""Bytes of a file of which an original is kept, and that is merged."""
_LONGEST_NAME: Final = 255


class Original(Record, kw_only=True):
    """What a file was, but for its data. `size`, `checksum`: of these. `xattrs`: hexadecimal, but for markers.

    `path`: where its layer had it; empty: not known.
    """

    size: int
    checksum: int
    mode: int
    uid: int
    gid: int
    xattrs: dict[str, str]
    path: str = ""


def beside(upper: str) -> str:
    """Where the originals of an upper are, if its work directory is the one that views have."""
    return os.path.join(work_beside(upper), os.fsdecode(NAME))


def prepare(work: str) -> None:
    """Have mounts with a work directory keep originals from now on. Raises: OSError."""
    with suppress(FileExistsError):
        os.mkdir(os.path.join(work, os.fsdecode(NAME)), 0o700)


def open_in(work: int) -> int:
    """Open the directory of originals in a work directory; -1 if there is none. Raises: OSError."""
    try:
        return os.open(
            NAME, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=work
        )
    except FileNotFoundError:
        return -1


def is_text(data: bytes) -> bool:
    """Whether the data of a file can be merged by lines."""
    return len(data) <= MOST and b"\0" not in data


def keep(
    directory: int, source: int, data: int, st: os.stat_result, origin: Origin, path: bytes
) -> None:
    """Keep the original of a file, if it is text. Raises nothing: without room there is none.

    `path`: from the root of its layer. `source`: the file; `data`: a descriptor that its data can be read from; both
    may be O_PATH. `st`: what it was.
    """
    name = _name(origin)
    if st.st_size > MOST or len(name) > _LONGEST_NAME:
        return
    with suppress(OSError):
        fd = os.open(f"/proc/self/fd/{data}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.read(fd, MOST + 1)
        finally:
            os.close(fd)
        if len(content) == st.st_size and is_text(content):
            head = _head(source, content, st, path)
            _write(directory, name, head + b"\n" + content, is_sure=origin.changed_ns is not None)


def keep_replaced(
    directory: int, path: bytes, source: int, st: os.stat_result, since: Began
) -> None:
    """Keep the original of a layer's file whose name another file takes; as `keep`.

    `path`: in the layers. `source`: the file, may be O_PATH. `since`: of the upper.
    """
    is_first = began.latest(st.st_ctime_ns) <= since.since_ns or st.st_ctime_ns <= since.restored_ns
    if st.st_size > MOST or not since.is_steady or not is_first:
        return
    name = _name_at(path, since)
    with suppress(OSError):
        if attributes.stat_or_none(directory, name) is not None:
            return
        fd = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.read(fd, MOST + 1)
            is_whole = len(content) == st.st_size and os.fstat(fd).st_ctime_ns == st.st_ctime_ns
        finally:
            os.close(fd)
        if is_whole and is_text(content):
            _write(
                directory, name, _head(source, content, st, path) + b"\n" + content, is_sure=True
            )


def read(directory: int, origin: Origin) -> tuple[Original, bytes] | None:
    """The original of a file and its data; None: none was kept. Raises: OSError."""
    return _read(directory, _name(origin))


def read_replaced(directory: int, path: bytes, since: Began) -> tuple[Original, bytes] | None:
    """The original of a layer's file at a path, whose name another file took; as `read`."""
    return _read(directory, _name_at(path, since)) if since.is_steady else None


def _read(directory: int, name: bytes) -> tuple[Original, bytes] | None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        head, _, content = file.read().partition(b"\n")
    try:
        original: Original = codec.decode(head, Original)
    except ValueError:
        return None
    if (original.size, original.checksum) != (len(content), zlib.crc32(content)):
        return None
    return original, content


def _name(origin: Origin) -> bytes:
    name = origin.encode().hex().encode()
    return name if origin.changed_ns is None else b"%b-%d" % (name, origin.changed_ns)


def _name_at(path: bytes, since: Began) -> bytes:
    digest = hashlib.blake2b(path, digest_size=20).hexdigest()
    return b"at-%b-%d" % (digest.encode(), since.since_ns)


def _head(source: int, content: bytes, st: os.stat_result, path: bytes) -> bytes:
    own = b"/proc/self/fd/%d" % source
    xattrs = {}
    for name in xattr_names(own):
        value = attributes.xattr_or_none(own, name)
        if value is not None and not name.startswith(OVERLAY_PREFIXES):
            xattrs[os.fsdecode(name)] = value.hex()
    return codec.encode(
        Original(
            size=len(content),
            checksum=zlib.crc32(content),
            mode=st.st_mode,
            uid=st.st_uid,
            gid=st.st_gid,
            xattrs=xattrs,
            path=os.fsdecode(path.lstrip(b"/")),
        )
    )


def _write(directory: int, name: bytes, content: bytes, *, is_sure: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    flags |= os.O_TRUNC if is_sure else os.O_EXCL
    try:
        fd = os.open(name, flags, 0o600, dir_fd=directory)
    except FileExistsError:  # perhaps of another state of the file
        os.unlink(name, dir_fd=directory)
        return
    try:
        if os.write(fd, content) != len(content):
            os.unlink(name, dir_fd=directory)
    except OSError:
        os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(fd)
