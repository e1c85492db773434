"""Read a tar archive as a stream of members.

tarfile parses. Unlike its own results, names are bytes, times nanoseconds, xattrs complete and holes kept, and a
truncated or damaged archive is an error and not its end. Source of the format: pax(1), tar(5) of libarchive, "GNU tar
internals" (sparse formats).
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
_MAX_HEADER = 64 << 20
"""Bytes; tarfile reads such a header into memory, of any size that it has."""
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
    """A member as in the archive, unchecked."""

    name: bytes
    kind: int
    """S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFCHR or S_IFBLK; 0 for a hard link, -1 for an unknown type."""
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size: int
    """Bytes, holes included."""
    target: bytes
    """The target of a link."""
    device: tuple[int, int]
    """Major and minor."""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class TarStream:
    """An archive that is read forward once.

    Iteration yields the members; `data` yields the contents of the last one. Both raise DamagedArchive, with `shown` as
    the archive's name.
    """

    def __init__(self, stream: IO[bytes], shown: str) -> None:
        self._stream = stream
        self._shown = shown
        self._last: tarfile.TarInfo | None = None
        with self._parsing():
            # The stream belongs to the caller, so there is nothing to close.
            self._tar = tarfile.open(  # noqa: SIM115
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
                # tarfile would keep every member.
                self._tar.members.clear()  # type: ignore[attr-defined]
                self._last = info
                member = _member(info)
            yield member

    def data(self) -> Iterator[tuple[int, bytes]]:
        """The contents of the last member as (offset, bytes), in order, without holes."""
        info = self._last
        if info is None:
            return
        # The type in typeshed is wrong.
        sparse = cast(list[tuple[int, int]] | None, info.sparse)
        extents = [(0, info.size)] if sparse is None else sparse
        # The extents follow one another in tarfile's stream; extractfile() would read a hole as zeros.
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
        """Read to end of file, where decompressors verify their checksum."""
        while self._stream.read(_CHUNK):
            pass

    @contextmanager
    def _parsing(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DamagedArchive(self._shown, _one_line(error)) from error
        except (ValueError, ArithmeticError, LookupError, RecursionError) as error:
            # Invalid numbers and too many nested headers, which tarfile does not catch.
            raise DamagedArchive(self._shown, _one_line(error)) from error
        except OSError as error:
            if error.errno is not None:
                raise
            # gzip and bz2 raise OSError without an errno for another format.
            raise DamagedArchive(self._shown, _one_line(error)) from error


class _StrictTarInfo(tarfile.TarInfo):
    """Refuse headers that tarfile cannot read; it takes all but the first for the end of the archive."""

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
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            # The block of zeros: the real end.
            raise
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
    # The mtime of tarfile is a float, with microseconds at best.
    text = info.pax_headers.get("mtime")
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
