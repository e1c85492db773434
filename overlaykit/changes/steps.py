"""The steps of an application: each a rename, or the metadata of one directory, and each can be taken back.

Where directories cannot be renamed, one is removed, and a like one is kept to be put in its place again.

A rename puts a file that is complete under its name, and what it displaces under the name that it had. So where the two
inodes are tells whether it was done, also after a crash, and doing it again in the other direction takes it back.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat

from overlaykit import _native, attributes
from overlaykit.beneath import BENEATH, INODE
from overlaykit.lean import NamedTuple, partial
from overlaykit.overlay.faults import reach
from overlaykit.overlay.markers import OVERLAY_PREFIXES, xattr_names
from overlaykit.reader import opened_past_modes, past_modes
from overlaykit.scope import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Final, Literal, Self, TypeAlias

    Root: TypeAlias = Literal["target", "state", "upper", "store"]
    """Directories that paths of steps begin at. `state`: that of this application, in the target. `store`: where what
    the upper holds goes."""
    Operation: TypeAlias = Literal["move", "exchange", "remove", "open", "close"]


_PARENT: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_RWX: Final = 0o700


class Seen(NamedTuple):
    """What an inode was when it was checked. Compared where a rename does not change it."""

    ino: int
    mode: int
    uid: int = -1
    gid: int = -1
    size: int = -1
    mtime_ns: int = -1
    ctime_ns: int = 0
    """Of what no earlier step touches; else 0."""
    digest: str = ""
    """Of a directory: of all that it holds (`digest_of`), if that is displaced with it."""

    @classmethod
    def of(cls, st: os.stat_result, digest: str = "", *, ctime_ns: int | None = None) -> Self:
        return cls(
            st.st_ino,
            st.st_mode,
            st.st_uid,
            st.st_gid,
            -1 if stat.S_ISDIR(st.st_mode) else st.st_size,
            -1 if stat.S_ISDIR(st.st_mode) else st.st_mtime_ns,
            st.st_ctime_ns if ctime_ns is None else ctime_ns,
            digest,
        )

    def is_still(self, st: os.stat_result) -> bool:
        """Whether an inode is the same, with the same metadata. A directory may have been opened for its owner."""
        ignored = _RWX if stat.S_ISDIR(self.mode) else 0
        return (
            self.ino == st.st_ino
            and self.mode | ignored == st.st_mode | ignored
            and (self.uid, self.gid) == (st.st_uid, st.st_gid)
            and self.size in (-1, st.st_size)
            and self.mtime_ns in (-1, st.st_mtime_ns)
        )


class Meta(NamedTuple):
    """Metadata of a directory; what is None stays. `xattrs`: hexadecimal values, None for one that is removed."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    xattrs: dict[str, str | None] = {}  # noqa: RUF012  # never changed
    atime_ns: int | None = None
    mtime_ns: int | None = None


class Step(NamedTuple):
    """One step. Paths are os.fsdecode'd.

    `move`: from `source` to `path`, which is free. `exchange`: of the two.
    `remove`: the empty directory at `source`, once and for all: what is at `kept`, and then at `path`, gets its place
    if this is taken back.
    `open`: a directory that is there before and gets other names in it: `new` lets its owner write; taken back last.
    `displaced`: what it is then, if it was removed.
    `close`: its metadata, or those of a new directory, in the end.
    `moved`, `displaced`: what is at `source` and at `path` before. `strip`: attributes that are removed from `source`
    first, with their values. `held`: the inode numbers of all that a directory holds that is moved whole.
    """

    operation: Operation
    root: Root
    path: str
    source_root: Root = "state"
    source: str = ""
    moved: Seen | None = None
    displaced: Seen | None = None
    strip: dict[str, str] = {}  # noqa: RUF012  # never changed
    old: Meta | None = None
    new: Meta | None = None
    held: tuple[int, ...] = ()

    @classmethod
    def of(cls, row: list[Any]) -> Self:
        """A step that was written as JSON."""
        operation, root, path, source_root, source, moved, displaced, strip, old, new, *more = row
        return cls(
            operation,
            root,
            path,
            source_root,
            source,
            moved and Seen(*moved),
            displaced and Seen(*displaced),
            strip,
            old and Meta(*old),
            new and Meta(*new),
            *map(tuple, more),
        )

    @property
    def renames(self) -> bool:
        return self.operation in ("move", "exchange", "remove")

    @property
    def where(self) -> tuple[str, str, str, str] | None:
        """The directories of a rename of two files; None for another step."""
        if self.operation not in ("move", "exchange"):
            return None
        source = self.source.rpartition("/")[0]
        return self.root, self.path.rpartition("/")[0], self.source_root, source

    @property
    def kept(self) -> str:
        """Where a directory is that stands in for a removed one, as long as that is not removed."""
        return self.path.replace("old/", "new/", 1)


class Displaced(Exception):
    """A file is not what was checked. The argument is the step; it was not taken."""

    def __init__(self, step: Step, path: str) -> None:
        super().__init__(path)
        self.step = step
        self.path = path


class Places:
    """The open roots, by name. Owns no descriptor."""

    def __init__(self, roots: dict[Root, int]) -> None:
        self.roots = roots
        self._held: dict[tuple[Root, str], int] | None = None
        self._remembered: dict[tuple[Root, str], int] | None = None

    @contextmanager
    def parent(self, root: Root, path: str) -> Any:
        """The directory that holds a path, as a descriptor, and the name in it.

        Raises: OSError: ELOOP for a symlink in the path, EXDEV if it leaves the root, ENOENT and the like.
        """
        if self._held is not None:
            yield self._held_parent(root, path)
            return
        above, _, name = path.rpartition("/")
        fd = self._open_directory(root, above)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def _held_parent(self, root: Root, path: str) -> tuple[int, str]:
        assert self._held is not None
        above, _, name = path.rpartition("/")
        fd = self._held.get((root, above), -1)
        if fd < 0:
            fd = self._held[root, above] = self._open_directory(root, above)
        return fd, name

    def _open_directory(self, root: Root, path: str) -> int:
        return opened_past_modes(
            partial(_native.openat2, self.roots[root], path or ".", _PARENT, 0, BENEATH)
        )

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Find all files in the block by the directories that their paths led to first. May not be nested.

        It is for few directories. One that gets another name meanwhile is still the one that holds them: see `stays`.
        """
        held = self._held = {}
        try:
            yield
        finally:
            self._held = None
            for fd in held.values():
                os.close(fd)

    def stays(self) -> bool:
        """Whether the paths of all directories that are held lead to these."""
        for (root, path), held in (self._held or {}).items():
            try:
                found = self._open_directory(root, path)
            except OSError:
                return False
            try:
                if not os.path.samestat(os.fstat(found), os.fstat(held)):
                    return False
            finally:
                os.close(found)
        return True

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Keep the directory of the last path open for `stat` in the block. For checks before the first step alone."""
        self._remembered = {}
        try:
            yield
        finally:
            self._forget()
            self._remembered = None

    def _forget(self) -> None:
        while self._remembered:
            os.close(self._remembered.popitem()[1])

    def _stat(self, root: Root, path: str) -> os.stat_result:
        if self._remembered is None:
            with self.parent(root, path) as (fd, name):
                return os.stat(name, dir_fd=fd, follow_symlinks=False)
        above, _, name = path.rpartition("/")
        fd = self._remembered.get((root, above), -1)
        if fd < 0:
            self._forget()
            fd = self._remembered[root, above] = self._open_directory(root, above)
        return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def stat(self, root: Root, path: str) -> os.stat_result | None:
        """None if it is missing, or its path leads through something else than directories."""
        try:
            return self._stat(root, path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                return None
            if error.errno != errno.EACCES or not path:
                raise
        return self._stat_past_modes(root, path)

    def _stat_past_modes(self, root: Root, path: str) -> os.stat_result | None:
        """As `stat`, where the mode of a directory of the user's own denies it. The child would see other ids."""
        try:
            fd = self.open(root, path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                return None
            raise
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def open(self, root: Root, path: str) -> int:
        """The inode at a path, as O_PATH; the root's for an empty path."""
        return opened_past_modes(
            partial(_native.openat2, self.roots[root], path or ".", INODE, 0, BENEATH)
        )

    # Steps

    def is_done(self, step: Step) -> bool:
        """Whether a rename was done, and no later one. Requires: none before it is missing."""
        assert step.moved is not None
        st = self.stat(step.root, step.path)
        if st is None or st.st_ino != step.moved.ino:
            return False
        if step.displaced is None or step.operation == "remove":
            return True
        st = self.stat(step.source_root, step.source)
        return st is not None and st.st_ino == step.displaced.ino

    def do(self, step: Step, *, again: bool = False) -> None:
        """Take a step. `again`: it may have been taken back, which changes times. Raises: OSError, Displaced."""
        match step.operation:
            case "move" | "exchange":
                self._rename(step, again=again)
            case "remove":
                self._remove(step)
            case "open" | "close":
                self._set(step, step.new)

    def undo(self, step: Step) -> None:
        """Take a step back, or what was begun of it. Raises: OSError, Displaced."""
        match step.operation:
            case "move" | "exchange":
                self._rename_back(step)
            case "remove":
                self._remove_back(step)
            case "open" | "close":
                if step.old is not None:
                    self._set(step, step.old)

    def _rename(self, step: Step, *, again: bool) -> None:
        if self._held is not None:
            source, name = self._held_parent(step.source_root, step.source)
            parent, target = self._held_parent(step.root, step.path)
            self._rename_from(step, source, name, parent, target, again=again)
            return
        with (
            self.parent(step.source_root, step.source) as (source, name),
            self.parent(step.root, step.path) as (parent, target),
        ):
            self._rename_from(step, source, name, parent, target, again=again)

    def _rename_from(
        self, step: Step, source: int, name: str, parent: int, target: str, *, again: bool
    ) -> None:
        assert step.moved is not None
        flags = _native.RENAME_NOREPLACE if step.displaced is None else _native.RENAME_EXCHANGE
        self._check_before(step, source, name, step.moved, again=again)
        if step.displaced is not None:
            self._check_before(step, parent, target, step.displaced, again=again)
        if step.strip:
            for attribute in step.strip:
                _remove_xattr(source, name, attribute)
            reach("apply.stripped")
        _rename(step, source, name, parent, target, flags)
        # What was put, and what was displaced by it, are what was checked; else nothing has happened.
        if self._is_still(step.moved, parent, target) and (
            step.displaced is None or self._is_still(step.displaced, source, name)
        ):
            return
        with suppress(OSError):
            _native.renameat2(parent, target, source, name, flags)
        self._restore(step, source, name)
        raise Displaced(step, _in_target(step))

    def _check_before(self, step: Step, fd: int, name: str, seen: Seen, *, again: bool) -> None:
        st = attributes.stat_or_none(fd, name)
        if st is None or not seen.is_still(st):
            raise Displaced(step, _in_target(step))
        if not again and seen.ctime_ns not in (0, st.st_ctime_ns):
            raise Displaced(step, _in_target(step))

    def _is_still(self, seen: Seen, fd: int, name: str) -> bool:
        st = attributes.stat_or_none(fd, name)
        if st is None or not seen.is_still(st):
            return False
        return not seen.digest or digest_of(fd, name) == seen.digest

    def held(self, step: Step) -> Iterator[tuple[str, os.stat_result]]:
        """What the directory at the path of a step holds. Raises: OSError."""
        fd = opened_past_modes(lambda: self.open(step.root, step.path))
        try:
            yield from _walk(fd, lambda _: False)
        finally:
            os.close(fd)

    def _rename_back(self, step: Step) -> None:
        assert step.moved is not None
        flags = _native.RENAME_NOREPLACE if step.displaced is None else _native.RENAME_EXCHANGE
        if self.is_done(step):
            with (
                self.parent(step.source_root, step.source) as (source, name),
                self.parent(step.root, step.path) as (parent, target),
            ):
                _rename(step, parent, target, source, name, flags)
                st = attributes.stat_or_none(source, name)
                if st is None or st.st_ino != step.moved.ino:
                    with suppress(OSError):
                        _native.renameat2(source, name, parent, target, flags)
                    raise Displaced(step, _in_target(step))
        st = self.stat(step.source_root, step.source)
        if st is None or st.st_ino != step.moved.ino:
            raise Displaced(step, _in_target(step))
        if step.strip:
            with self.parent(step.source_root, step.source) as (source, name):
                self._restore(step, source, name)

    def _remove(self, step: Step) -> None:
        assert step.moved is not None
        assert step.displaced is not None
        state = self.roots[step.root]
        with self.parent(step.source_root, step.source) as (parent, name):
            st = attributes.stat_or_none(parent, name)
            if st is not None and st.st_ino == step.moved.ino:  # it was taken back
                _rename(step, parent, name, state, step.path, _native.RENAME_NOREPLACE)
                return
            if st is not None:
                if not step.displaced.is_still(st):
                    raise Displaced(step, _in_target(step))
                _remove_directory(step, parent, name)
            reach("apply.removed")
        _rename(step, state, step.kept, state, step.path, _native.RENAME_NOREPLACE)

    def _remove_back(self, step: Step) -> None:
        assert step.moved is not None
        assert step.displaced is not None
        kept = step.path if self.is_done(step) else step.kept
        with self.parent(step.source_root, step.source) as (parent, name):
            st = attributes.stat_or_none(parent, name)
            if st is None:
                state = self.roots[step.root]
                _rename(step, state, kept, parent, name, _native.RENAME_NOREPLACE)
            elif st.st_ino not in (step.moved.ino, step.displaced.ino):
                raise Displaced(step, _in_target(step))

    def _restore(self, step: Step, fd: int, name: str) -> None:
        path = f"/proc/self/fd/{fd}/{name}"
        for attribute, value in step.strip.items():
            past_modes(
                partial(os.setxattr, path, attribute, bytes.fromhex(value), follow_symlinks=False)
            )

    def _set(self, step: Step, meta: Meta | None) -> None:
        """Set metadata of a directory. Raises: Displaced if another one, or none, is there."""
        assert step.moved is not None
        try:
            # Those above it may be closed again already, where this is done once more.
            fd = opened_past_modes(lambda: self.open(step.root, step.path))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                raise
            raise Displaced(step, _in_target(step)) from None
        try:
            st = os.fstat(fd)
            expected = {one.ino for one in (step.moved, step.displaced) if one is not None}
            if st.st_ino not in expected or not stat.S_ISDIR(st.st_mode):
                raise Displaced(step, _in_target(step))
            if meta is not None:
                _set_meta(fd, st, meta)
        except OSError as error:
            raise OSError(error.errno, error.strerror, step.path or ".") from None
        finally:
            os.close(fd)


def _set_meta(fd: int, st: os.stat_result, meta: Meta) -> None:
    path = f"/proc/self/fd/{fd}"
    uid, gid = (-1 if one is None else one for one in (meta.uid, meta.gid))
    if (uid, gid) != (-1, -1) and (uid, gid) != (st.st_uid, st.st_gid):
        os.chown(path, uid, gid)
    for name, value in meta.xattrs.items():
        if value is None:
            _remove_xattr(fd, "", name)
        else:
            past_modes(partial(os.setxattr, path, name, bytes.fromhex(value)))
    # What is as it shall be is left alone: it may be what nobody may change. An ACL changes the mode.
    if meta.mode is not None and (meta.xattrs or meta.mode != stat.S_IMODE(st.st_mode)):
        os.chmod(path, meta.mode)
    if meta.atime_ns not in (None, st.st_atime_ns) or meta.mtime_ns not in (None, st.st_mtime_ns):
        attributes.set_times(fd, "", meta.atime_ns, meta.mtime_ns, _native.AT_EMPTY_PATH)


def _remove_xattr(fd: int, name: str, attribute: str) -> None:
    path = f"/proc/self/fd/{fd}/{name}" if name else f"/proc/self/fd/{fd}"
    try:
        past_modes(partial(os.removexattr, path, attribute, follow_symlinks=not name))
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise


def _rename(step: Step, source: int, name: str, parent: int, target: str, flags: int) -> None:
    try:
        _native.renameat2(source, name, parent, target, flags)
    except (FileExistsError, FileNotFoundError):
        raise Displaced(step, _in_target(step)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, _in_target(step)) from None


def _remove_directory(step: Step, parent: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
            raise Displaced(step, _in_target(step)) from None
        raise OSError(error.errno, error.strerror, _in_target(step)) from None


def _in_target(step: Step) -> str:
    """The path of the two that lies in the target, or in the upper."""
    for root, path in ((step.root, step.path), (step.source_root, step.source)):
        if root == "target":
            return path or "."
    return step.source or "."


def overlay_xattrs(path: str) -> dict[str, str]:
    """The attributes that an overlay keeps on a file, with hexadecimal values. Follows no symlink."""
    found = {}
    for name in xattr_names(os.fsencode(path), follow=False):
        if name.startswith(OVERLAY_PREFIXES):
            value = attributes.xattr_or_none(path, name, follow_symlinks=False)
            if value is not None:
                found[os.fsdecode(name)] = value.hex()
    return found


def digest_of(
    fd: int,
    name: str,
    without: Callable[[str], bool] = lambda _: False,
    look: Callable[[str, os.stat_result], None] = lambda _path, _st: None,
) -> str:
    """A digest of all that a directory holds, by inode number, metadata and times; empty for another file.

    `without`: paths below it that do not count. `look`: called for each that counts.
    Raises: OSError.
    """
    st = os.stat(name, dir_fd=fd, follow_symlinks=False)
    if not stat.S_ISDIR(st.st_mode):
        return ""
    top = _native.openat2(fd, name, _PARENT | os.O_NOFOLLOW, 0, BENEATH)
    digest = hashlib.blake2b(digest_size=16)
    try:
        for path, found in _walk(top, without):
            look(path, found)
            times: Iterable[object] = (found.st_size, found.st_mtime_ns)
            mode = found.st_mode
            if stat.S_ISDIR(mode):  # opened by a step, and emptied of what is renamed
                times, mode = (), mode | _RWX
            row = (path, found.st_ino, mode, found.st_uid, found.st_gid, *times)
            digest.update(repr(row).encode("utf-8", "surrogateescape"))
    finally:
        os.close(top)
    return digest.hexdigest()


def _walk(top: int, without: Callable[[str], bool]) -> Iterable[tuple[str, os.stat_result]]:
    pending = [""]
    while pending:
        above = pending.pop()
        fd = _native.openat2(top, above or ".", os.O_RDONLY | os.O_DIRECTORY, 0, BENEATH)
        try:
            for name in sorted(os.listdir(fd)):
                path = f"{above}/{name}" if above else name
                if without(path):
                    continue
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                yield path, st
                if stat.S_ISDIR(st.st_mode):
                    pending.append(path)
        finally:
            os.close(fd)
