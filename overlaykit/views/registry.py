"""Which views and mounts are running: a directory each, below the user's runtime directory.

An entry holds `about.json`, the daemon's `control` socket and the directory `stage`. Each process of the view holds
a lock on the entry (flock(2): it goes with the last process), so an entry without a lock is what is left of one that
was killed; the next command removes it with its scratch.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from overlaykit import codec
from overlaykit.errors import Error
from overlaykit.fuse import control, mountpoints
from overlaykit.namespace import errno_as_root, is_privileged
from overlaykit.rmtree import rmtree_path
from overlaykit.views import places

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ABOUT: Final = "about.json"
_SCRATCH: Final = "scratch"
"""In an entry: a symlink to the scratch directory, or that directory where no place on a disk can hold it."""


class NameInvalid(Error):
    message = (
        "--name {0}: use up to 63 letters, digits, '.', '_' and '-', beginning with a letter or "
        "a digit"
    )


class NameTaken(Error):
    message = (
        "--name {0}: a view of that name is running: choose another one, or end it ('overlaykit "
        "ps')"
    )


class NoRoomToNote(Error):
    message = (
        "{0}: a running view cannot be noted down there ({1}): make room, or set XDG_RUNTIME_DIR "
        "to a directory elsewhere"
    )


class NotRunning(Error):
    message = (
        "{0}: no view or mount of that name or mountpoint is running: 'overlaykit ps' lists them"
    )


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What an entry says. `started`: nanoseconds since the epoch. `target` for a mount, `command` for a view.

    `device`: st_dev of the mount, by which it is known. `namespace`: the mount namespace that `target` is a path in.
    """

    name: str
    pid: int
    daemon: int
    started: int
    layers: tuple[str, ...]
    device: int
    upper: str | None = None
    namespace: int = 0
    target: str | None = None
    command: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Running:
    """One that is running, and where its daemon listens."""

    about: About
    control: str

    def is_running(self) -> bool:
        """Whether it still is."""
        return _is_locked(os.path.dirname(self.control))


class Entry:
    """An entry of our own; a context manager, whose end removes it. `lock` is to be kept by the view's processes."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.lock = lock
        self.stage = os.path.join(path, "stage")
        self.control = os.path.join(path, "control")

    def listen(self) -> socket.socket:
        """The listener of the control socket."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A socket's path is short (unix(7)); the entry's may be long.
        with _directory(self.path) as fd, _noting(os.path.dirname(self.path)):
            listener.bind(f"/proc/self/fd/{fd}/control")
        listener.listen()
        return listener

    def publish(self, about: About) -> None:
        """Let others see it."""
        path = os.path.join(self.path, _ABOUT)
        with _noting(os.path.dirname(self.path)):
            with open(path + ".new", "wb") as file:
                file.write(codec.encode(about))
            os.rename(path + ".new", path)

    def make_scratch(self) -> str:
        """Make the directory that goes with the entry, on a disk if possible. Raises Error (NoScratchPlace)."""
        path = os.path.join(self.path, _SCRATCH)
        name = f"{_SCRATCH}-{self.name}"
        for place in places.scratch():
            with _noting(os.path.dirname(self.path)):
                os.symlink(os.path.join(place, name), path)
            if made := places.make_scratch(place, name):
                return made
            os.unlink(path)
        os.mkdir(path, 0o700)
        if not places.holds_marks(path):
            raise places.NoScratchPlace(", ".join((*places.scratch(), self.path)))
        return path

    @property
    def remains(self) -> tuple[str, ...]:
        """What is of no use without it: the daemon removes it if it outlives the others."""
        return _remains(self.path)

    def close(self) -> None:
        """Remove it, unless the daemon lives on to do so; release the lock."""
        with contextlib.suppress(OSError):
            os.close(self.lock)
        _clear(self.path)


class Registry:
    """The entries of one user."""

    def __init__(self) -> None:
        self._root = places.runtime()

    def enter(self, name: str | None) -> Entry:
        """A new entry, under a name of our choice if none is given. Raises Error: NameInvalid, NameTaken."""
        if name is not None and not _NAME.fullmatch(name):
            raise NameInvalid(name)
        chosen = name or f"view-{os.urandom(3).hex()}"
        path = os.path.join(self._root, chosen)
        beginning = self._lock_root()  # until ours is locked, it looks like a dead one's
        try:
            self.clear()
            with _noting(self._root):
                try:
                    os.mkdir(path, 0o700)
                except FileExistsError:
                    raise NameTaken(chosen) from None
                try:
                    os.mkdir(os.path.join(path, "stage"), 0o700)
                except OSError:
                    os.rmdir(path)
                    raise
            lock = _lock(path, fcntl.LOCK_EX)
        finally:
            os.close(beginning)
        return Entry(path, lock)

    def running(self) -> list[Running]:
        """What is running, oldest first."""
        found = []
        for path in self._paths():
            with contextlib.suppress(OSError, ValueError):
                with open(os.path.join(path, _ABOUT), "rb") as file:
                    about: About = codec.decode(file.read(), About)
                if _is_locked(path):
                    found.append(Running(about, os.path.join(path, "control")))
        return sorted(found, key=lambda one: one.about.started)

    def find(self, wanted: str) -> Running:
        """By a mountpoint in this mount namespace, or by name. Raises Error (NotRunning)."""
        with contextlib.suppress(FileNotFoundError):  # the working directory was deleted
            mounted = mountpoints.find(wanted)
            found = None if mounted is None else self.serving(mounted.device)
            if found is not None:
                return found
        for one in self.running():
            if one.about.name == wanted:
                return one
        raise NotRunning(wanted)

    def serving(self, device: int) -> Running | None:
        """The one whose mount has this device number."""
        return next((one for one in self.running() if one.about.device == device), None)

    def of_mount(self, wanted: str) -> Running | None:
        """A mount, by its name, or by where it was mounted in this mount namespace: it may be unmounted by now."""
        if not wanted:
            return None  # and not the working directory
        path, here = os.path.realpath(wanted), namespace()
        mounts = [one for one in self.running() if one.about.target is not None]
        for one in mounts:
            if one.about.name == wanted:
                return one
        for one in reversed(mounts):
            if (one.about.target, one.about.namespace) == (path, here):
                return one
        return None

    def clear(self) -> None:
        """Clear away what was left by views that were killed."""
        for path in self._paths():
            if not _is_locked(path):
                _clear(path)

    def leave(self) -> None:
        """Remove the directory of entries where nothing is running."""
        lock = _lock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock >= 0:
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(self._root)
                places.leave_scratch(*places.scratch())
            os.close(lock)

    def _lock_root(self) -> int:
        """Lock the directory of entries; make it again if `leave` has removed it meanwhile."""
        while True:
            lock = _lock(places.private(self._root), fcntl.LOCK_EX)
            if lock >= 0:
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(lock), os.stat(self._root)):
                        return lock
                os.close(lock)

    def _paths(self) -> Iterator[str]:
        try:
            with os.scandir(self._root) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return
        for name in names:
            yield os.path.join(self._root, name)


def explain(wanted: str, path: str) -> control.Explained:
    """Which layer answers for a path in a view or a mount. Raises Error (NotRunning), OSError (ENOENT)."""
    reply = control.ask(Registry().find(wanted).control, control.Explain(path))
    assert isinstance(reply, control.Explained)
    return reply


def namespace() -> int:
    """The number of this process's mount namespace."""
    return os.stat("/proc/self/ns/mnt").st_ino


def now() -> int:
    return time.time_ns()


def _clear(path: str) -> None:
    """Remove a dead entry and its scratch, unless it is alive again or another process has removed it."""
    lock = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock < 0:
        return
    try:
        for dead in _remains(path):
            _discard(dead)
    finally:
        os.close(lock)


def _discard(path: str) -> None:
    try:
        rmtree_path(path)
    except PermissionError:  # of files of other users of the view, who are our subordinate ids
        if not is_privileged():
            errno_as_root(lambda: rmtree_path(path))
    except OSError:
        pass


def _remains(entry: str) -> tuple[str, ...]:
    """What goes with an entry, in the order in which it goes: a scratch elsewhere must not outlive what names it."""
    try:
        return os.readlink(os.path.join(entry, _SCRATCH)), entry
    except OSError:  # none, or it lies in the entry
        return (entry,)


def _is_locked(path: str) -> bool:
    lock = _lock(path, fcntl.LOCK_SH | fcntl.LOCK_NB)
    if lock >= 0:
        os.close(lock)
        return False
    return os.path.isdir(path)


def _lock(path: str, how: int) -> int:
    """A descriptor that holds a lock on a directory; -1 if another has it, or the directory is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, how)
    except BlockingIOError:
        os.close(fd)
        return -1
    return fd


@contextlib.contextmanager
def _noting(directory: str) -> Iterator[None]:
    """Say of a failure where a running view was to be noted down."""
    try:
        yield
    except OSError as error:
        raise NoRoomToNote(directory, error.strerror) from error


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
