"""Modes of the upper's inodes that keep the daemon itself out: widened for one operation, and put back.

The daemon of an ordinary user has no CAP_DAC_OVERRIDE (capabilities(7)): the owner's bits bind it, on files of its own
too. Owning a file, it may change them. An operation that fails with EACCES is run again between `opened`, where every
directory of the upper that it passes, and every inode that it names to `widen`, gets the owner's bits that it lacks.

Crash safety: a note in the work directory comes first. It is a symlink, which a disk has whole or not at all, and in
the order of its journal; its target says what to put back and where. What a crash left is put back by `recover` at the
next mount: to the inode that was widened, wherever it is now, and in a copy of the upper and its work directory (`cp
-a`) to what is at its path and has the mode that it was widened to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, TypeVar

from overlaykit import _native
from overlaykit.overlay.faults import reach
from overlaykit.overlay.layer import INODE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overlaykit.overlay.layer import LayerDir

T = TypeVar("T")

Identity: TypeAlias = bytes
"""Of an inode on its disk: its number and its time of birth, which another one that gets the number does not have."""

_NOTE: Final = b"mode."
_DIRECTORY_BITS: Final = stat.S_IRWXU
_FILE_BITS: Final = stat.S_IRUSR | stat.S_IWUSR
_LONGEST_NOTE: Final = 4095  # a symlink's target ends there (PATH_MAX)


class _Widened(NamedTuple):
    """An inode whose mode is wider than what is shown. `owner`: the owner's bits to put back; `note`: its name."""

    fd: int
    owner: int
    note: bytes


class Modes:
    """Widens modes below `roots`, the directories that a note's path may begin at: the upper, and the index.

    `notes` is the work directory. Outside of `opened` no mode is widened.
    """

    def __init__(self, notes: LayerDir, roots: Sequence[LayerDir]) -> None:
        self.active = False
        self._notes = notes
        self._roots = roots
        self._serial = 0
        self._seen: set[LayerDir] = set()
        self._widened: dict[tuple[int, int], _Widened] = {}

    def past(self, action: Callable[[], T]) -> T:
        """Run `action`, and where a mode is in its way (EACCES) run it again with modes widened."""
        try:
            return action()
        except PermissionError as error:
            if self.active or error.errno != errno.EACCES:
                raise
        with self.opened():
            return action()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Widen what is in the way, until the end."""
        before, self.active = self.active, True
        try:
            yield
        finally:
            self.active = before
            if not before:
                self._seen.clear()
                while self._widened:
                    self._put_back(self._widened.popitem()[1])

    def widen_directory(self, layer_dir: LayerDir, fd: int) -> None:
        """Let the daemon into a directory of the upper, `fd`, and at its attributes; once for each operation."""
        if layer_dir in self._seen or layer_dir is self._notes:
            return
        self._seen.add(layer_dir)
        self._widen(os.dup(fd))

    def widen(self, dirfd: int, name: bytes, *, follow: bool = False) -> None:
        """Let the daemon read and write an inode of the upper, if modes are being widened."""
        if self.active:
            flags = INODE & ~os.O_NOFOLLOW if follow else INODE
            self._widen(os.open(name, flags, dir_fd=dirfd))

    def widen_to_move(
        self, layer_dir: LayerDir, name: bytes, to: LayerDir, new_name: bytes
    ) -> None:
        """Let the daemon move a directory to another parent in the upper, if modes are being widened: its `..` changes.

        A note tells where it will be.
        """
        if self.active:
            with contextlib.suppress(NotADirectoryError):
                fd = os.open(name, INODE | os.O_DIRECTORY, dir_fd=layer_dir.fd())
                self._widen(fd, to.path(new_name))

    def put_back(self, st: os.stat_result) -> None:
        """Before the mode of an inode is set: it is what is shown again."""
        found = self._widened.pop((st.st_dev, st.st_ino), None)
        if found is not None:
            self._put_back(found)

    def shown(self, st: os.stat_result) -> int:
        """The mode of an inode as if none were widened."""
        if self._widened:
            found = self._widened.get((st.st_dev, st.st_ino))
            if found is not None:
                return st.st_mode & ~stat.S_IRWXU | found.owner
        return st.st_mode

    def recover(self) -> None:
        """Put back what an earlier daemon left widened."""
        names = [name for name in os.listdir(self._notes.proc_path()) if name.startswith(_NOTE)]
        if not names:
            return
        # What is widened on the way is noted too, under names of its own.
        self._serial = max(_number(name) for name in names)
        with self.opened():
            for name in names:
                with contextlib.suppress(OSError, ValueError, IndexError):  # it is no note of ours
                    self._recover(name)

    def _recover(self, name: bytes) -> None:
        text = os.readlink(name, dir_fd=self._notes.fd())
        octal, identity, home, root, path = text.split(b" ", 4)
        mode = int(octal, 8)
        found = _open(self._roots[int(root)], path) if path else None
        if found is not None and not (
            _identity(found) == identity
            if home == _identity(self._notes.fd())
            else os.fstat(found).st_mode == mode | _wanted(mode)
        ):
            os.close(found)
            found = None
        for layer_dir in self._roots:
            if found is None and home == _identity(self._notes.fd()):
                found = _search(layer_dir, identity)
        if found is None:  # it was removed
            os.unlink(name, dir_fd=self._notes.fd())
        else:
            st = os.fstat(found)
            key = st.st_dev, st.st_ino
            ours = self._widened.pop(key, None)
            if ours is not None:  # to find it, a moment ago
                os.unlink(ours.note, dir_fd=self._notes.fd())
                os.close(ours.fd)
            self._widened[key] = _Widened(found, mode & stat.S_IRWXU, name)

    def _widen(self, fd: int, to: bytes | None = None) -> None:
        """Takes the descriptor over."""
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
            note = b"%s%x" % (_NOTE, self._serial)
            os.symlink(self._text(fd, st.st_mode, to), note, dir_fd=self._notes.fd())
        except BaseException:
            os.close(fd)
            raise
        self._widened[key] = _Widened(fd, owner, note)
        reach("mode.noted")
        os.chmod(b"/proc/self/fd/%d" % fd, stat.S_IMODE(st.st_mode) | wanted)
        reach("mode.widened")

    def _put_back(self, widened: _Widened) -> None:
        try:
            with contextlib.suppress(OSError):  # the note stays: the next mount does it
                mode = os.fstat(widened.fd).st_mode
                path = b"/proc/self/fd/%d" % widened.fd
                os.chmod(path, stat.S_IMODE(mode) & ~stat.S_IRWXU | widened.owner)
                reach("mode.put_back")
                os.unlink(widened.note, dir_fd=self._notes.fd())
        finally:
            os.close(widened.fd)

    def _text(self, fd: int, mode: int, to: bytes | None) -> bytes:
        """A note: the mode, the inode, the work directory's, and as well as is known a root and the path from there."""
        root, path = (0, to) if to is not None else self._path(fd)
        known = b"%o %s %s " % (mode, _identity(fd), _identity(self._notes.fd()))
        text = b"%s%d %s" % (known, root, path)
        return text if len(text) <= _LONGEST_NOTE else known + b"0 "

    def _path(self, fd: int) -> tuple[int, bytes]:
        with contextlib.suppress(OSError):  # ENAMETOOLONG
            path = os.readlink(b"/proc/self/fd/%d" % fd)
            for index, root in enumerate(self._roots):
                top = os.readlink(root.proc_path()).rstrip(b"/")
                if path.startswith(top + b"/"):
                    return index, path[len(top) + 1 :]
        return 0, b""


def _may_change(st: os.stat_result) -> bool:
    """Whether chmod(2) by us changes the bits that it is told, and no others: it drops the set-group-ID bit of a group
    that we are not in."""
    if st.st_uid != os.geteuid():
        return False
    return not st.st_mode & stat.S_ISGID or st.st_gid in (os.getegid(), *os.getgroups())


def _number(note: bytes) -> int:
    with contextlib.suppress(ValueError):
        return int(note.removeprefix(_NOTE), 16)
    return 0


def _wanted(mode: int) -> int:
    """The owner's bits that let the daemon at an inode."""
    return _DIRECTORY_BITS if stat.S_ISDIR(mode) else _FILE_BITS


def _identity(fd: int) -> Identity:
    return _identity_at(fd, b"", _native.AT_EMPTY_PATH)


def _identity_at(dirfd: int, name: bytes, flags: int) -> Identity:
    mask = _native.STATX_BASIC_STATS | _native.STATX_BTIME
    st = _native.statx(dirfd, name, flags, mask)
    return b"%d.%d" % (st.ino, st.btime_ns if st.mask & _native.STATX_BTIME else 0)


def _open(layer_dir: LayerDir, path: bytes) -> int | None:
    """A descriptor (O_PATH) of what is at this path below `layer_dir`; None if nothing is."""
    *above, name = path.split(b"/")
    if name in (b"", b".", b".."):
        return None
    with contextlib.suppress(OSError):
        for part in above:
            layer_dir = layer_dir.child(part)
        return os.open(name, INODE, dir_fd=layer_dir.fd())
    return None


def _search(root: LayerDir, identity: Identity) -> int | None:
    """A descriptor (O_PATH) of the inode, wherever below `root` it is. Reads the whole tree."""
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
