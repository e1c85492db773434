"""Read a tar archive as a stream of members. tarfile parses; here its answers become exact and complete.

Names are bytes, times are nanoseconds, extended attributes are whole, holes stay holes; and an archive that
is cut short or damaged is an error, where tarfile would in places take it for the end.
Source of the format: pax(1), tar(5) of libarchive, "GNU tar internals" (sparse formats).
"""

from __future__ import annotations

import lzma
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import IO, Self, cast

from overlaykit.errors import Error

_CHUNK = 1 << 20
_XATTR = "SCHILY.xattr."
_READ_WHOLE = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_MAX_HEADER = 64 << 20  # tarfile holds such a header in memory, however long it says it is
_KINDS = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}


class DamagedArchive(Error):
    message = (
        "{0} is damaged, cut short, or no archive that can be read ({1}); fetch or make it again"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member, as the archive has it: nothing about it has been checked."""

    name: bytes
    kind: int
    """S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFCHR or S_IFBLK; 0 for a hard link, -1 for what we don't know."""
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size: int
    """Bytes, holes included."""
    target: bytes
    """Where a link leads."""
    device: tuple[int, int]
    """Major and minor."""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class TarStream:
    """An archive, read forward once.

    Iterating gives the members; `data` the contents of the last one given. Both raise DamagedArchive, with `shown`
    as the archive's name.
    """

    def __init__(self, stream: IO[bytes], shown: str) -> None:
        self._stream = stream
        self._shown = shown
        self._last: tarfile.TarInfo | None = None
        with self._parsing():
            self._tar = tarfile.open(  # noqa: SIM115  # it has nothing to close: the stream is not its own
                fileobj=stream,
                mode="r|",
                tarinfo=_StrictTarInfo,
                encoding="utf-8",
                errors="surrogateescape",
            )

    def __iter__(self) -> Iterator[Member]:
        while True:
            with self._parsing():
                info = self._tar.next()
                if info is None:
                    self._drain()
                    return
                self._tar.members.clear()  # type: ignore[attr-defined]  # it would keep every member
                self._last = info
                member = _member(info)
            yield member

    def data(self) -> Iterator[tuple[int, bytes]]:
        """The contents of the last member as (offset, bytes), in order, without the holes."""
        info = self._last
        if info is None:
            return
        # typeshed takes the map of a sparse member for a number
        sparse = cast(list[tuple[int, int]] | None, info.sparse)
        extents = [(0, info.size)] if sparse is None else sparse
        # Straight from tarfile's stream, where the extents lie one after another: what extractfile()
        # gives would read a hole of a terabyte as that many zeros.
        stream = cast(IO[bytes], self._tar.fileobj)
        with self._parsing():
            stream.seek(info.offset_data)
        for offset, length in extents:
            if not 0 <= offset <= offset + length <= info.size:
                raise DamagedArchive(self._shown, "a sparse member beyond its own end")
            while length > 0:
                with self._parsing():
                    data = stream.read(min(length, _CHUNK))
                if not data:
                    raise DamagedArchive(self._shown, "unexpected end of data")
                yield offset, data
                offset += len(data)
                length -= len(data)

    def _drain(self) -> None:
        """Read what follows the end mark: a compressor's checksum is only checked at its end."""
        while self._stream.read(_CHUNK):
            pass

    @contextmanager
    def _parsing(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DamagedArchive(self._shown, _one_line(error)) from error
        except (ValueError, ArithmeticError, LookupError, RecursionError) as error:
            # what tarfile lets through of numbers that are none, and headers upon headers
            raise DamagedArchive(self._shown, _one_line(error)) from error
        except OSError as error:
            if error.errno is not None:
                raise
            # gzip and bz2 say "not mine" by an OSError that no system call gave
            raise DamagedArchive(self._shown, _one_line(error)) from error


class _StrictTarInfo(tarfile.TarInfo):
    """tarfile takes a header that it cannot read, other than the first, for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _READ_WHOLE and header.size > _MAX_HEADER:
            raise tarfile.ReadError("a header too long to be one")
        return header

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # not in typeshed
            raise  # the block of zeros: the real end
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def _member(info: tarfile.TarInfo) -> Member:
    if info.size < 0:
        raise tarfile.ReadError("a negative size")
    if info.islnk():
        kind = 0
    elif info.isreg():
        kind = stat.S_IFREG
    else:
        kind = _KINDS.get(info.type, -1)
    return Member(
        name=_bytes(info.name),
        kind=kind,
        mode=info.mode & 0o7777,
        owner=(info.uid, info.gid),
        mtime_ns=_nanoseconds(info),
        size=info.size,
        target=_bytes(info.linkname),
        device=(info.devmajor, info.devminor),
        xattrs={
            _bytes(key.removeprefix(_XATTR)): _bytes(value)
            for key, value in info.pax_headers.items()
            if key.startswith(_XATTR)
        },
    )


def _nanoseconds(info: tarfile.TarInfo) -> int:
    text = info.pax_headers.get("mtime")  # tarfile's own number is a float: microseconds at best
    if text is None:
        return int(info.mtime) * 1_000_000_000
    try:
        return int(Decimal(text).scaleb(9).to_integral_value("ROUND_FLOOR"))
    except (InvalidOperation, OverflowError):
        raise tarfile.ReadError("invalid time") from None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
