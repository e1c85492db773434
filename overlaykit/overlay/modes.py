"""Modes of the upper's inodes that deny the daemon access: widened for one operation, and restored.

The daemon of an ordinary user has no CAP_DAC_OVERRIDE (capabilities(7)): the owner's bits bind it on its own files too,
and as the owner it can change them. An operation that fails with EACCES runs again within `opened`. There every
directory of the upper that it passes, and every inode that it gives to `widen`, gets the owner's bits that it lacks.

Crash safety: a record is made in the work directory first. It is a symlink, which a crash leaves whole or not at all,
in the order of the file system's journal; its target holds the mode to restore, the inode and its path. `recover`
restores the modes at the next mount: of the inode that was widened, at any path, and in a copy of the upper and its
work directory (`cp -a`) of the file at its path, if that has the widened mode.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, TypeVar

from overlaykit import _native, attributes
from overlaykit.beneath import INODE
from overlaykit.overlay.faults import reach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overlaykit.overlay.layer import LayerDir

T = TypeVar("T")

Identity: TypeAlias = bytes
"""An inode of a file system: its number and its birth time, since the number may be reused."""

_RECORD: Final = b"mode."
_DIRECTORY_BITS: Final = stat.S_IRWXU
_FILE_BITS: Final = stat.S_IRUSR | stat.S_IWUSR
_LONGEST_RECORD: Final = 4095  # of a symlink's target (PATH_MAX)


class _Widened(NamedTuple):
    """An inode with a widened mode. `owner`: the owner's bits to restore; `record`: the name of its record."""

    fd: int
    owner: int
    record: bytes


class Modes:
    """Widens modes below `roots`, the upper and the index, from which the paths in records start.

    `records` is the work directory. Invariant: outside of `opened` no mode is widened.
    """

    def __init__(self, records: LayerDir, roots: Sequence[LayerDir]) -> None:
        self.active = False
        self._records = records
        self._roots = roots
        self._serial = 0
        self._seen: set[LayerDir] = set()
        self._widened: dict[tuple[int, int], _Widened] = {}

    def move_to(self, records: LayerDir, roots: Sequence[LayerDir]) -> None:
        """Go on below other roots. Requires: not within `opened`."""
        self._records = records
        self._roots = roots

    def past(self, action: Callable[[], T]) -> T:
        """Run `action`; if a mode denies it (EACCES), run it again with modes widened."""
        try:
            return action()
        except PermissionError as error:
            if self.active or error.errno != errno.EACCES:
                raise
        with self.opened():
            return action()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Widen modes within the block, and restore them at its end."""
        before, self.active = self.active, True
        try:
            yield
        finally:
            self.active = before
            if not before:
                self._seen.clear()
                while self._widened:
                    self._restore(self._widened.popitem()[1])

    def widen_directory(self, layer_dir: LayerDir, fd: int) -> None:
        """Widen the mode of a directory of the upper, open as `fd`, once per operation."""
        if layer_dir in self._seen or layer_dir is self._records:
            return
        self._seen.add(layer_dir)
        self._widen(os.dup(fd))

    def widen(self, dirfd: int, name: bytes, *, follow: bool = False) -> None:
        """Let the daemon read and write an inode of the upper. No-op outside of `opened`."""
        if self.active:
            flags = INODE & ~os.O_NOFOLLOW if follow else INODE
            self._widen(os.open(name, flags, dir_fd=dirfd))

    def widen_to_move(
        self, layer_dir: LayerDir, name: bytes, to: LayerDir, new_name: bytes
    ) -> None:
        """Let the daemon rename a directory of the upper to another parent, which writes to it (`..`).

        No-op outside of `opened`. The record holds the new path.
        """
        if self.active:
            with contextlib.suppress(NotADirectoryError):
                fd = os.open(name, INODE | os.O_DIRECTORY, dir_fd=layer_dir.fd())
                self._widen(fd, to.path(new_name))

    def restore(self, st: os.stat_result) -> None:
        """Restore the mode of one inode, before chmod(2) sets it."""
        found = self._widened.pop((st.st_dev, st.st_ino), None)
        if found is not None:
            self._restore(found)

    def shown(self, st: os.stat_result) -> int:
        """The mode of an inode as it is without widening."""
        if self._widened:
            found = self._widened.get((st.st_dev, st.st_ino))
            if found is not None:
                return st.st_mode & ~stat.S_IRWXU | found.owner
        return st.st_mode

    def recover(self) -> None:
        """Restore the modes that an earlier daemon left widened."""
        names = [name for name in os.listdir(self._records.proc_path()) if name.startswith(_RECORD)]
        if not names:
            return
        # The recovery itself widens modes, whose records need unused names.
        self._serial = max(_number(name) for name in names)
        with self.opened():
            for name in names:
                # Another file may have such a name.
                with contextlib.suppress(OSError, ValueError, IndexError):
                    self._recover(name)

    def _recover(self, name: bytes) -> None:
        text = os.readlink(name, dir_fd=self._records.fd())
        octal, identity, home, root, path = text.split(b" ", 4)
        mode = int(octal, 8)
        found = _open(self._roots[int(root)], path) if path else None
        if found is not None and not (
            _identity(found) == identity
            if home == _identity(self._records.fd())
            else os.fstat(found).st_mode == mode | _wanted(mode)
        ):
            os.close(found)
            found = None
        for layer_dir in self._roots:
            if found is None and home == _identity(self._records.fd()):
                found = _search(layer_dir, identity)
        if found is None:  # it was removed
            os.unlink(name, dir_fd=self._records.fd())
        else:
            st = os.fstat(found)
            key = st.st_dev, st.st_ino
            widened = self._widened.pop(key, None)
            if widened is not None:  # widened by the search for it
                os.unlink(widened.record, dir_fd=self._records.fd())
                os.close(widened.fd)
            self._widened[key] = _Widened(found, mode & stat.S_IRWXU, name)

    def _widen(self, fd: int, to: bytes | None = None) -> None:
        """Widen an inode; takes ownership of `fd`."""
        try:
            st = os.fstat(fd)
            key = st.st_dev, st.st_ino
            wanted = _wanted(st.st_mode)
            if (
                key in self._widened
                or not wanted & ~st.st_mode
                or stat.S_ISLNK(st.st_mode)
                or not _may_change(st)
            ):
                os.close(fd)
                return
            owner = st.st_mode & stat.S_IRWXU
            self._serial += 1
            record = b"%s%x" % (_RECORD, self._serial)
            os.symlink(self._text(fd, st.st_mode, to), record, dir_fd=self._records.fd())
        except BaseException:
            os.close(fd)
            raise
        self._widened[key] = _Widened(fd, owner, record)
        reach("mode.recorded")
        os.chmod(b"/proc/self/fd/%d" % fd, stat.S_IMODE(st.st_mode) | wanted)
        reach("mode.widened")

    def _restore(self, widened: _Widened) -> None:
        try:
            # After an error the record stays, for the next mount.
            with contextlib.suppress(OSError):
                mode = os.fstat(widened.fd).st_mode
                path = b"/proc/self/fd/%d" % widened.fd
                os.chmod(path, stat.S_IMODE(mode) & ~stat.S_IRWXU | widened.owner)
                reach("mode.restored")
                os.unlink(widened.record, dir_fd=self._records.fd())
        finally:
            os.close(widened.fd)

    def _text(self, fd: int, mode: int, to: bytes | None) -> bytes:
        """The text of a record: the mode, the identities of the inode and the work directory, a root, and the path
        there.

        The path is empty if it is not known, or too long.
        """
        root, path = (0, to) if to is not None else self._path(fd)
        known = b"%o %s %s " % (mode, _identity(fd), _identity(self._records.fd()))
        text = b"%s%d %s" % (known, root, path)
        return text if len(text) <= _LONGEST_RECORD else known + b"0 "

    def _path(self, fd: int) -> tuple[int, bytes]:
        with contextlib.suppress(OSError):  # ENAMETOOLONG
            path = os.readlink(b"/proc/self/fd/%d" % fd)
            for index, root in enumerate(self._roots):
                top = os.readlink(root.proc_path()).rstrip(b"/")
                if path.startswith(top + b"/"):
                    return index, path[len(top) + 1 :]
        return 0, b""


def _may_change(st: os.stat_result) -> bool:
    """Whether chmod(2) works and changes no other bits: it clears the set-group-ID bit of a group that is not ours."""
    if st.st_uid != os.geteuid():
        return False
    return not st.st_mode & stat.S_ISGID or st.st_gid in (os.getegid(), *os.getgroups())


def _number(record: bytes) -> int:
    with contextlib.suppress(ValueError):
        return int(record.removeprefix(_RECORD), 16)
    return 0


def _wanted(mode: int) -> int:
    """The owner's bits that the daemon needs."""
    return _DIRECTORY_BITS if stat.S_ISDIR(mode) else _FILE_BITS


def _identity(fd: int) -> Identity:
    return _identity_at(fd, b"", _native.AT_EMPTY_PATH)


def _identity_at(dirfd: int, name: bytes, flags: int) -> Identity:
    mask = _native.STATX_BASIC_STATS | _native.STATX_BTIME
    st = attributes.statx(dirfd, name, flags, mask)
    return b"%d.%d" % (st.ino, st.btime_ns if st.mask & _native.STATX_BTIME else 0)


def _open(layer_dir: LayerDir, path: bytes) -> int | None:
    """Open (O_PATH) the file at this path below `layer_dir`; None if there is none."""
    *above, name = path.split(b"/")
    if name in (b"", b".", b".."):
        return None
    with contextlib.suppress(OSError):
        for part in above:
            layer_dir = layer_dir.child(part)
        return os.open(name, INODE, dir_fd=layer_dir.fd())
    return None


def _search(root: LayerDir, identity: Identity) -> int | None:
    """Open (O_PATH) the inode, anywhere below `root`. Reads the whole tree."""
    left = [root]
    while left:
        layer_dir = left.pop()
        for name, _, _ in [entry for portion in layer_dir.scan() for entry in portion]:
            st = os.stat(name, dir_fd=layer_dir.fd(), follow_symlinks=False)
            if _identity_at(layer_dir.fd(), name, _native.AT_SYMLINK_NOFOLLOW) == identity:
                return os.open(name, INODE, dir_fd=layer_dir.fd())
            if stat.S_ISDIR(st.st_mode):
                left.append(layer_dir.child(name))
        if layer_dir is not root:
            layer_dir.close()
    return None
