"""One entry of the registry: the directory of a running view or mount, its lock and its scratch.

An entry holds `about.json`, the daemon's `control` socket and the directory `stage`. Each process of the view holds
a lock on the entry (flock(2)), which ends with the last of them. An entry without a lock belongs to a view that was
killed: the next command removes it with its scratch. The launcher or the supervisor of a view locks `stage`, too: once
that lock has ended, the view has, and its daemon cleans up.

The entry's directory has the name that the view had at its start, and keeps it when the view is renamed: its processes
know it by that. The file `renamed` says that the view may have another name (`current`). The directory of the entry of
another view of the earlier name has that name, "~" and a number.
"""

from __future__ import annotations

import fcntl
import os

from overlaykit import codec, sockets
from overlaykit.errors import Error
from overlaykit.fuse.cleanup import leave_network, lock_directory
from overlaykit.record import Record
from overlaykit.scope import contextmanager, suppress
from overlaykit.views import places, scratch
from overlaykit.views.kept import Kept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from overlaykit.fuse.spec import Cleanup

_ABOUT: Final = "about.json"
_STAGE: Final = "stage"
_SCRATCH: Final = "scratch"
"""The name of a symlink to the scratch directory, or of that directory itself if no disk can hold it."""
_MOUNTPOINTS: Final = "mountpoints"
_RENAMED: Final = "renamed"
_NUMBERED: Final = "~"
_SEARCHABLE: Final = 0o755


class EntryUnwritable(Error):
    message = (
        "{0}: a running view cannot be registered there ({1}): make room, or set XDG_RUNTIME_DIR "
        "to a directory elsewhere"
    )


class About(Record, kw_only=True):
    """What an entry says of its view or mount.

    `started`: nanoseconds since the epoch. `device`: st_dev of the mount, which identifies it. A view has a `command`,
    a mount a `target`, a path in the mount namespace `namespace`. `daemon`, `supervisor`: process ids; 0: there is
    none. An entry notes the `daemon` that lasts as long as its mount; where that is the keeper of another one,
    `serving` names both. `paths` are the directories of the layers, of which the first `frozen` are snapshots, and
    `changes` is the upper, kept or not. A command
    that joins has `capabilities`, `no_new_privs`, the filter `seccomp` and the `release` of the kernel, as the view's
    commands. `cgroups`: the directories of its control groups. `address`: in the shared network `network`. `detached`:
    whether its output goes to the log of the named view. `terminal`: whether its command has a terminal of its own.
    `machine`: the process that relays signals to a command in a machine; 0: there is none. `kept`: the directory of a
    named view; `name` and the paths are those at its start then, and `current` tells those of now.
    """

    name: str
    pid: int
    daemon: int
    keeper: int = 0
    started: int
    layers: tuple[str, ...]
    device: int
    upper: str | None = None
    namespace: int = 0
    target: str | None = None
    command: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    driver: str = "fuse"
    paths: tuple[str, ...] = ()
    changes: str | None = None
    frozen: int = 0
    supervisor: int = 0
    capabilities: tuple[int, ...] = ()
    no_new_privs: bool = True
    seccomp: str | None = None
    release: str | None = None
    cgroups: tuple[str, ...] = ()
    network: str = ""
    address: str | None = None
    labels: dict[str, str] = {}  # noqa: RUF012
    detached: bool = False
    terminal: bool = False
    machine: int = 0
    kept: Kept | None = None

    @property
    def serving(self) -> About:
        """With the daemon that serves the mount now."""
        from overlaykit.fuse import serving

        daemon = serving.daemon_of(self.daemon) if self.target is not None else self.daemon
        if daemon == self.daemon:
            return self
        pid = daemon if self.pid == self.daemon else self.pid
        return self.replace(daemon=daemon, keeper=self.daemon, pid=pid)

    @property
    def daemons(self) -> tuple[int, ...]:
        """Its daemon, and the keeper of that. The first one lasts as long as the mount."""
        return tuple(filter(None, (self.keeper, self.daemon)))


class Entry:
    """An entry of this process. The processes of the view keep `lock` open; `close` removes the entry.

    `name`: that of the view at its start. The process without which the view ends keeps `view_lock` open. `limited`: an
    upper and the project whose limit ends with the entry (`projects`), or None.
    `member`: its line in the /etc/hosts of the members of a shared network, empty if it is none.
    """

    def __init__(self, path: str) -> None:
        """Lock the entry, which is new. Raises: OSError; then it is removed."""
        self.path = path
        self.name = noted_name(path)
        self.stage = os.path.join(path, _STAGE)
        self.lock = self.view_lock = -1
        try:
            self.lock = lock_directory(path, fcntl.LOCK_EX)
            self.view_lock = lock_directory(self.stage, fcntl.LOCK_EX)
        except OSError:  # no descriptor is left, also none to remove a tree
            os.rmdir(self.stage)
            os.rmdir(path)
            if self.lock >= 0:
                os.close(self.lock)
            raise
        self.control = control_socket(path)
        self.limited: tuple[str, int] | None = None
        self.member = ""
        self._scratch_lock = -1

    def listen(self) -> sockets.socket:
        """Bind the control socket and listen on it. Who may connect is what its mode says: the user alone."""
        listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        # The file gets the mode of the descriptor (net/unix/af_unix.c: unix_bind_bsd).
        os.fchmod(listener.fileno(), 0o600)
        # A socket's path is short (unix(7)); the entry's may be long.
        with _directory(self.path) as fd, writing_entries(os.path.dirname(self.path)):
            listener.bind(f"/proc/self/fd/{fd}/control")
        listener.listen()
        return listener

    def publish(self, about: About) -> None:
        """Show the entry to other commands."""
        publish(self.path, about)

    def make_scratch(self) -> str:
        """Make the directory that is removed with the entry, on a disk if possible. Raises: NoScratchPlace."""
        path = os.path.join(self.path, _SCRATCH)
        name = scratch.name_of(os.path.basename(self.path))
        for place in places.scratch():
            with writing_entries(os.path.dirname(self.path)):
                os.symlink(os.path.join(place, name), path)
            if made := places.make_scratch(place, name):
                self._scratch_lock = scratch.lock(made)
                return made
            os.unlink(path)
        os.mkdir(path, 0o700)
        if not places.holds_markers(path):
            raise places.NoScratchPlace(", ".join((*places.scratch(), self.path)))
        return path

    def make_mountpoints(self) -> str:
        """Make a layer with the files that a view's own files are mounted on (`namespace.names`)."""
        from overlaykit.views.network_hosts import USUAL

        path = os.path.join(self.path, _MOUNTPOINTS)
        etc = os.path.join(path, "etc")
        with writing_entries(os.path.dirname(self.path)):
            for directory in path, etc:
                os.mkdir(directory)
                os.chmod(directory, _SEARCHABLE)
            for name, contents in ("hosts", USUAL), ("hostname", b""), ("resolv.conf", b""):
                with open(os.path.join(etc, name), "wb") as file:
                    os.chmod(file.fileno(), 0o644)
                    file.write(contents)
        return path

    @property
    def locks(self) -> tuple[int, ...]:
        """The locks of the entry and its scratch, which the process that removes both keeps."""
        return (self.lock,) if self._scratch_lock < 0 else (self.lock, self._scratch_lock)

    @property
    def cleanup(self) -> Cleanup:
        """What the daemon removes at its end."""
        from overlaykit.fuse.spec import Cleanup

        trees = _cleanup_paths(self.path)
        return Cleanup(
            limited=() if self.limited is None else (self.limited,),
            member=self.member,
            trees=trees,
            registry=os.path.dirname(self.path),
            places=tuple(os.path.dirname(path) for path in trees[:-1]),
        )

    def close(self) -> None:
        """Release the lock and remove the entry, unless the daemon still holds the lock: then the daemon removes it."""
        if self.limited is not None:
            from overlaykit import projects

            projects.end_limit(*self.limited)
        if self.member:
            leave_network(os.path.dirname(self.path), self.member)
        for lock in (self.view_lock, *self.locks):
            with suppress(OSError):
                os.close(lock)
        remove_unlocked(self.path)


def control_socket(path: str) -> str:
    """The socket on which the daemon of the entry at `path` listens."""
    return os.path.join(path, "control")


def publish(path: str, about: About) -> None:
    """Write what the entry at `path` says, in one step. Raises: EntryUnwritable."""
    file_path = os.path.join(path, _ABOUT)
    with writing_entries(os.path.dirname(path)):
        with open(file_path + ".new", "wb") as file:
            file.write(codec.encode(about))
        os.rename(file_path + ".new", file_path)


def read(path: str) -> About | None:
    """What the entry at `path` says; None if it is not published or damaged."""
    try:
        with open(os.path.join(path, _ABOUT), "rb") as file:
            about: About = codec.decode(file.read(), About)
    except (OSError, ValueError):
        return None
    return about


def current(about: About) -> About | None:
    """With the name that the view has now; None if that was removed."""
    kept = about.kept
    name = about.name if kept is None else kept.name(about.name)
    if kept is None or name is None or name == about.name:
        return None if name is None else about
    return about.replace(
        name=name,
        upper=kept.moved(about.upper, about.name, name),
        changes=kept.moved(about.changes, about.name, name),
        paths=tuple(kept.moved_below(path, about.name, name) for path in about.paths),
    )


def name_at(path: str) -> str | None:
    """The name that the view or mount of the entry at `path` has now; None if that was removed."""
    about = read(path) if os.path.lexists(os.path.join(path, _RENAMED)) else None
    if about is None:
        return noted_name(path)
    about = current(about)
    return None if about is None else about.name


def noted_name(path: str) -> str:
    """The name that the view or mount of the entry at `path` had at its start."""
    return os.path.basename(path).partition(_NUMBERED)[0]


def numbered(path: str) -> str:
    """Another path for an entry than `path`, of the same name."""
    return f"{path}{_NUMBERED}{os.urandom(3).hex()}"


def note_rename(path: str) -> None:
    """Note that the view of the entry at `path` may have another name from now on. Raises: EntryUnwritable."""
    with writing_entries(os.path.dirname(path)), open(os.path.join(path, _RENAMED), "wb"):
        pass


def remove_unlocked(path: str) -> None:
    """Remove the entry at `path` and its scratch, unless a process holds its lock."""
    lock = lock_directory(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock < 0:
        return
    try:
        *others, own = _cleanup_paths(path)
        for unused in others:
            scratch.remove_unlocked(unused)
        scratch.remove(own)
    finally:
        os.close(lock)


def is_locked(path: str) -> bool:
    """Whether a process of the view at `path` is alive."""
    lock = lock_directory(path, fcntl.LOCK_SH | fcntl.LOCK_NB)
    if lock >= 0:
        os.close(lock)
        return False
    return os.path.isdir(path)


def is_view_locked(path: str) -> bool:
    """Whether the view at `path` has not ended; its daemon may outlive it."""
    return is_locked(os.path.join(path, _STAGE))


@contextmanager
def writing_entries(directory: str) -> Iterator[None]:
    """Raises: EntryUnwritable in place of an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise EntryUnwritable(directory, error.strerror) from error


def _cleanup_paths(path: str) -> tuple[str, ...]:
    """The directories of an entry in the order of their removal: the entry names the scratch, so it goes last."""
    try:
        return os.readlink(os.path.join(path, _SCRATCH)), path
    except OSError:  # there is none, or it lies in the entry
        return (path,)


@contextmanager
def _directory(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
