"""Files as a stream in tar's format: packed from a tree, and unpacked into one.

A `Place` says where a path is looked up. In a view that is below the view's root (RESOLVE_IN_ROOT of openat2(2)), so
that no symbolic link leads out of it, also while its processes exchange files for links. What lies below a directory is
reached through its descriptor, and no link is followed there.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Final, cast

from overlaykit import _native, attributes
from overlaykit.beneath import BENEATH, INODE, NEW_FILE, open_in_root
from overlaykit.errors import Error
from overlaykit.layers.tar import Member, TarStream
from overlaykit.rmtree import rmtree

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LISTED: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SPECIAL: Final = stat.S_ISUID | stat.S_ISGID


class MemberLeadsOut(Error):
    message = (
        "{0}: a member of the archive that would lie outside of {1}: make the archive without '..'"
    )


class DirectoryOverFile(Error):
    message = "{0}: no directory, which the source is: name another place, or use --overwrite"


class FileOverDirectory(Error):
    message = "{0}: a directory, which the source is not: name another place, or use --overwrite"


class NeitherFileNorDirectory(Error):
    message = "{0}: neither a file nor a directory: name another place"


class ChangedMeanwhile(Error):
    message = "{0}: became shorter while it was copied: copy it again"


class NoDirectory(Error):
    message = (
        "{0}: no directory, in which the archive could be unpacked: make it, or name another one"
    )


class Place:
    """Where paths are looked up: on the host, below the root of a view, or beneath a directory of the host."""

    def __init__(
        self, root: int | None, resolve: int = _native.RESOLVE_IN_ROOT, prefix: str = ""
    ) -> None:
        """`root`: a descriptor of a view's root; None: the host's, and the working directory."""
        self._root = root
        self._resolve = resolve
        self._prefix = prefix

    @property
    def is_host(self) -> bool:
        """Whether paths are the host's."""
        return self._root is None

    def open(self, path: str, flags: int) -> int:
        """Raises: OSError, which names the path."""
        if self._root is None:
            return os.open(path, flags | os.O_CLOEXEC)
        try:
            whole = os.path.join(self._prefix, path)
            return open_in_root(self._root, whole, flags | os.O_CLOEXEC, self._resolve)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None

    def below(self, directory: str) -> Place:
        """The place whose paths are relative to a directory. Links below a directory of the host are not followed."""
        found = self.open(directory, _DIRECTORY)
        if self._root is None:
            return Place(found, BENEATH)
        os.close(found)
        return Place(self._root, self._resolve, directory)


@dataclass(frozen=True, kw_only=True)
class Owners:
    """Who gets what is unpacked: those of the archive if `kept`, else `given`, or the caller."""

    given: tuple[int, int] | None = None
    kept: bool = False
    special: bool = True
    """Whether set-user-ID and set-group-ID bits stay."""


@dataclass(kw_only=True)
class Unpacking:
    """How an archive is unpacked. `left_out`: the names of what was not made, devices and sockets."""

    owners: Owners
    overwrite: bool = False
    """Whether a directory may be replaced by another file, and the other way round."""
    left_out: list[str] = field(default_factory=list)


# ---- packing -------------------------------------------------------------------------------------


def pack(place: Place, path: str, name: str, stream: IO[bytes]) -> list[str]:
    """Write the file at `path`, with all below it, as `name`. Returns: what was left out, sockets.

    Raises: OSError, ChangedMeanwhile. The archive has no end then.
    """
    left_out: list[str] = []
    # Closed at the end of an archive that is whole.
    stream = cast(IO[bytes], _Stream(stream))
    tar = tarfile.open(  # noqa: SIM115
        fileobj=stream,
        mode="w",
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
    )
    for fd, below in _walk(place.open(path, os.O_PATH), path):
        try:
            added = _add(tar, fd, name + below.removeprefix(path))
        except BrokenPipeError:
            raise
        except OSError as error:
            if error.errno is None:  # tarfile's own
                raise ChangedMeanwhile(below) from None
            raise OSError(error.errno, error.strerror, below) from None
        if not added:
            left_out.append(below)
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep every member
    tar.close()
    return left_out


class _Stream:
    """What tarfile needs of a file that it writes forward."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._written = 0

    def write(self, data: bytes) -> int:
        self._written += self._stream.write(data)
        return len(data)

    def tell(self) -> int:
        return self._written


def _walk(top: int, name: str) -> Iterator[tuple[int, str]]:
    """The file with the descriptor `top` and all below it, with their names; descriptors are open until the next."""
    open_ones: list[tuple[int, str, list[str]]] = []
    fd, shown = top, name
    try:
        while True:
            if fd >= 0 and stat.S_ISDIR(os.fstat(fd).st_mode):
                open_ones.append((fd, shown, []))
                yield fd, shown
                open_ones[-1][2].extend(_names(fd, shown))
            elif fd >= 0:
                try:
                    yield fd, shown
                finally:
                    os.close(fd)
            while open_ones and not open_ones[-1][2]:
                os.close(open_ones.pop()[0])
            if not open_ones:
                return
            directory, above, names = open_ones[-1]
            child = names.pop()
            shown = f"{above}/{child}"
            try:
                fd = os.open(child, INODE, dir_fd=directory)
            except FileNotFoundError:  # removed since
                fd = -1
            except OSError as error:
                raise OSError(error.errno, error.strerror, shown) from None
    finally:
        for directory, _, _ in open_ones:
            os.close(directory)


def _names(directory: int, shown: str) -> list[str]:
    try:
        listed = os.open(".", _LISTED, dir_fd=directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, shown) from None
    try:
        return sorted(os.listdir(listed), reverse=True)
    finally:
        os.close(listed)


def _add(tar: tarfile.TarFile, fd: int, name: str) -> bool:
    """Add an inode, given its O_PATH descriptor. Returns: false for a kind that archives have not."""
    found = os.fstat(fd)
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(found.st_mode)
    info.uid, info.gid = found.st_uid, found.st_gid
    info.mtime = found.st_mtime_ns // 1_000_000_000
    seconds, nanoseconds = divmod(found.st_mtime_ns, 1_000_000_000)
    info.pax_headers = {"mtime": f"{seconds}.{nanoseconds:09d}"}
    if stat.S_ISREG(found.st_mode):
        info.size = found.st_size
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            tar.addfile(info, file)
        return True
    if stat.S_ISLNK(found.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink("", dir_fd=fd)
    elif stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISFIFO(found.st_mode):
        info.type = tarfile.FIFOTYPE
    else:
        return False
    tar.addfile(info)
    return True


# ---- unpacking -----------------------------------------------------------------------------------


def unpack_into(place: Place, directory: str, stream: IO[bytes], how: Unpacking) -> None:
    """Unpack an archive into a directory that is there. Raises: NoDirectory, DamagedArchive, Error, OSError."""
    try:
        below = place.below(directory)
    except NotADirectoryError:
        raise NoDirectory(directory) from None
    with _Tree(below, directory, how) as tree:
        archive = TarStream(stream, "the archive")
        for member in archive:
            tree.add(member, _clean(member.name, directory), archive.data)


def unpack_as(
    place: Place, path: str, stream: IO[bytes], how: Unpacking, *, name: str | None
) -> None:
    """Unpack the archive of one file and all below it, as cp(1) and podman copy it to `path`.

    If `path` is a directory, as `name` in it, or for None only what a directory holds; else as `path`, whose own
    directory has to be there. Raises: DamagedArchive, Error, OSError.
    """
    archive = TarStream(stream, "the copy")
    members = iter(archive)
    first = next(members, None)
    if first is None:
        return
    is_directory = first.kind == stat.S_IFDIR
    found = _existing(place, path)
    try:
        kind = 0 if found is None else stat.S_IFMT(os.fstat(found).st_mode)
        kind = 0 if kind == stat.S_IFLNK else kind
        if found is not None and kind == stat.S_IFREG and first.kind == stat.S_IFREG:
            # Also through a symbolic link, and where it is a mountpoint.
            _write_over(found, first, archive, how)
            return
    finally:
        if found is not None:
            os.close(found)
    if kind == stat.S_IFDIR:
        above, own = path, [] if name is None else [name]
        if name is None and not is_directory:
            raise FileOverDirectory(path)
    else:
        if kind not in (0, stat.S_IFREG):
            raise NeitherFileNorDirectory(path)
        if kind == 0 and path.endswith("/") and not is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        if kind and not how.overwrite:
            raise DirectoryOverFile(path)
        above, last = os.path.split(path.rstrip("/"))
        above, own = above or ".", [last]
    with _Tree(place.below(above), above, how) as tree:
        tree.add(first, own, archive.data)
        for member in members:
            tree.add(member, [*own, *_clean(member.name, path)[1:]], archive.data)


def _existing(place: Place, path: str) -> int | None:
    """What is there. On the host a link to a file counts as missing: it is replaced, and nothing written elsewhere."""
    try:
        if place.is_host:
            return place.open(path, os.O_PATH if os.path.isdir(path) else INODE)
        return place.open(path, os.O_PATH)
    except FileNotFoundError:
        return None


def _clean(name: bytes, shown: str) -> list[str]:
    """The names of a member's path. Raises: MemberLeadsOut."""
    names = [one for one in os.fsdecode(name).split("/") if one not in ("", ".")]
    if ".." in names:
        raise MemberLeadsOut(os.fsdecode(name), shown)
    return names


def _write_over(found: int, member: Member, archive: TarStream, how: Unpacking) -> None:
    """Write a regular file over another one, given an O_PATH descriptor of it."""
    file = os.open(f"/proc/self/fd/{found}", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        _fill(file, member, archive.data)
        _finish(file, member, how)
    finally:
        os.close(file)


def _fill(file: int, member: Member, data: Callable[[], Iterator[tuple[int, bytes]]]) -> None:
    for offset, chunk in data():
        rest = memoryview(chunk)
        while rest:
            written = os.pwrite(file, rest, offset)
            rest, offset = rest[written:], offset + written
    os.ftruncate(file, member.size)


def _finish(fd: int, member: Member, how: Unpacking) -> None:
    """Set owner, mode and times of an inode, whose descriptor may be O_PATH."""
    # A magic link refers to the inode itself, also of a symbolic link.
    path = f"/proc/self/fd/{fd}"
    owner = member.owner if how.owners.kept else how.owners.given
    if owner is not None:
        os.chown(path, *owner)
    if not stat.S_ISLNK(os.fstat(fd).st_mode):
        os.chmod(path, member.mode if how.owners.special else member.mode & ~_SPECIAL)
    os.utime(path, ns=(member.mtime_ns, member.mtime_ns))


class _Tree:
    """A directory that is filled. The modes and times of new directories are set at the end."""

    def __init__(self, place: Place, shown: str, how: Unpacking) -> None:
        self._place = place
        self._shown = shown
        self._how = how
        self._made: list[tuple[list[str], Member]] = []
        self._above: tuple[list[str], int] | None = None

    def __enter__(self) -> _Tree:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            for names, member in reversed(self._made) if kind is None else ():
                fd = self._place.open("/".join(names), _DIRECTORY | os.O_NOFOLLOW)
                try:
                    _finish(fd, member, self._how)
                finally:
                    os.close(fd)
        finally:
            self._leave()

    def add(
        self, member: Member, names: list[str], data: Callable[[], Iterator[tuple[int, bytes]]]
    ) -> None:
        """Make the file of a member at the path `names` of the directory."""
        if not names:
            return  # the directory itself, which is there
        shown = os.path.join(self._shown, *names)
        try:
            self._make(self._enter(names[:-1]), names, shown, member, data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, shown) from None

    def _enter(self, names: list[str]) -> int:
        if self._above is None or self._above[0] != names:
            self._leave()
            self._above = names, self._open_or_make(names)
        return self._above[1]

    def _leave(self) -> None:
        if self._above is not None:
            os.close(self._above[1])
        self._above = None

    def _open_or_make(self, names: list[str]) -> int:
        """A directory below the top. Archives may leave directories out."""
        path = "/".join(names) or "."
        try:
            return self._place.open(path, _DIRECTORY)
        except FileNotFoundError:
            if not names:
                raise
        above = self._open_or_make(names[:-1])
        try:
            os.mkdir(names[-1], dir_fd=above)
            if self._how.owners.given is not None:
                os.chown(names[-1], *self._how.owners.given, dir_fd=above, follow_symlinks=False)
        finally:
            os.close(above)
        return self._place.open(path, _DIRECTORY)

    def _make(
        self,
        above: int,
        names: list[str],
        shown: str,
        member: Member,
        data: Callable[[], Iterator[tuple[int, bytes]]],
    ) -> None:
        name = names[-1]
        if member.kind == stat.S_IFDIR:
            if self._clear(above, name, shown, directory=True):
                os.mkdir(name, 0o700, dir_fd=above)
                self._made.append((names, member))
            return
        if member.kind not in (0, stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO):
            self._how.left_out.append(shown)
            return
        self._clear(above, name, shown, directory=False)
        if member.kind == stat.S_IFREG:
            self._write(above, name, member, data)
            return
        if member.kind == stat.S_IFLNK:
            os.symlink(member.target, os.fsencode(name), dir_fd=above)
        elif member.kind == stat.S_IFIFO:
            os.mkfifo(name, 0o600, dir_fd=above)
        else:
            self._link(above, name, member)
            return
        made = os.open(name, INODE, dir_fd=above)
        try:
            _finish(made, member, self._how)
        finally:
            os.close(made)

    def _write(
        self,
        above: int,
        name: str,
        member: Member,
        data: Callable[[], Iterator[tuple[int, bytes]]],
    ) -> None:
        try:
            file = os.open(name, NEW_FILE, 0o600, dir_fd=above)
        except FileExistsError:  # a mountpoint, which could not be removed
            file = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, dir_fd=above)
        try:
            _fill(file, member, data)
            _finish(file, member, self._how)
        finally:
            os.close(file)

    def _link(self, above: int, name: str, member: Member) -> None:
        names = _clean(member.target, self._shown)
        if not names:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        source = self._open_or_make(names[:-1])
        try:
            os.link(names[-1], name, src_dir_fd=source, dst_dir_fd=above, follow_symlinks=False)
        finally:
            os.close(source)

    def _clear(self, above: int, name: str, shown: str, *, directory: bool) -> bool:
        """Remove what is in the way. Returns: false if a directory is there that is to be there."""
        found = attributes.stat_or_none(above, name)
        if found is None:
            return True
        is_directory = stat.S_ISDIR(found.st_mode)
        if directory and is_directory:
            return False
        if directory != is_directory and not self._how.overwrite:
            raise DirectoryOverFile(shown) if directory else FileOverDirectory(shown)
        if is_directory:
            rmtree(above, os.fsencode(name))
        else:
            with suppress(OSError):  # of a mountpoint
                os.unlink(name, dir_fd=above)
        return True
