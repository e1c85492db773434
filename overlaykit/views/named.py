"""Named views: they outlive their command, each in a directory.

    VIEWS/NAME/view.json   how it was defined
    VIEWS/NAME/upper/      what was written in it, unless it has an upper elsewhere
    VIEWS/NAME/snapshots/  uppers that were frozen (`snapshots`)
    VIEWS/NAME/log         what its command printed while it was detached, and log.1 before that
    VIEWS/NAME/input       a FIFO, the input of its detached command, if it has one
    VIEWS/NAME/started     an empty file, if a command has run
    VIEWS/NAME/status      how its last command ended; empty while it runs
    VIEWS/NAME/stopping    an empty file, if it is not to be started again by itself
    VIEWS/NAME/restarts    an empty file, locked (flock(2)) by the process that may start it again by itself
    VIEWS/NAME/named       an empty file, locked (flock(2)) by a process that uses the name while it starts the view

The supervisor holds a lock on the directory (flock(2)) until the status is written. A directory without a lock is that
of a view that is stopped: after a restart of the machine, that is every one.

A view may be renamed at any time, also while it runs, and another one may take its name then. So a process knows a
view by a descriptor of its directory, as the supervisor does, and uses the name only where it is locked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from overlaykit import codec
from overlaykit.errors import Error
from overlaykit.fuse.cleanup import lock_directory
from overlaykit.layers.staging import staged, temporary_name
from overlaykit.namespace.spec import Log
from overlaykit.record import Record
from overlaykit.scope import ExitStack, suppress
from overlaykit.views import entry, places, scratch
from overlaykit.views.kept import Kept, names_locked
from overlaykit.views.registry import NameInvalid, Registry, is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO, Final

LARGEST_LOG: Final = 16 << 20
"""Bytes of each of the two files of a log."""

DEFINITION: Final = "view.json"
SNAPSHOTS: Final = "snapshots"
_STATUS: Final = "status"
_LOG: Final = "log"
_STARTED: Final = "started"
_STOPPING: Final = "stopping"
_RESTARTS: Final = "restarts"
_INPUT: Final = "input"
_NAMED: Final = "named"
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NameTaken(Error):
    message = (
        "--name {0}: there is a view of that name: 'overlaykit start {0}' goes on with it, "
        "'overlaykit rm {0}' removes it"
    )


class NoSuchView(Error):
    message = "{0}: there is no view of that name: 'overlaykit ps -a' lists them"


class ViewRuns(Error):
    message = "{0}: the view is running: end it first ('overlaykit stop {0}')"


class Definition(Record, kw_only=True):
    """What `overlaykit run` was asked for, to be asked for again."""

    arguments: tuple[str, ...]
    """Those of `overlaykit run`, the command included."""
    environment: tuple[str, ...]
    """The entries of the environment of `overlaykit run`."""
    directory: str
    """The working directory of `overlaykit run`, to which relative paths refer."""
    created: int
    """Nanoseconds since the epoch."""
    temporary: bool = False
    """Whether the view is removed when its command ends."""
    labels: dict[str, str] = {}  # noqa: RUF012
    restart: str = "no"
    """A policy of `restarting`."""
    layers: tuple[str, ...] | None = None
    """Those in place of its `-l`, if they were changed since."""


class Ended(Record, kw_only=True):
    """How a command ended: its status, 128 + N where signal N ended it, and when, in nanoseconds since the epoch."""

    status: int
    time: int


class NamedView:
    """A named view that exists; this stays the same one if it is renamed.

    `directory`: a path that leads to its directory as long as this object lives.
    """

    _descriptor = -1

    def __init__(self, name: str) -> None:
        """Find it. Raises: NoSuchView."""
        self._views = places.views()
        self._name = name
        if is_name(name):
            with suppress(OSError):
                self._descriptor = os.open(os.path.join(self._views, name), _DIRECTORY)
        self.directory = f"/proc/self/fd/{self._descriptor}"
        if self._descriptor < 0 or not os.path.isfile(self._file(DEFINITION)):
            raise NoSuchView(name)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _file(self, name: str) -> str:
        return os.path.join(self.directory, name)

    @property
    def name(self) -> str:
        """Its name now; of a view that was removed, the last one."""
        found = os.path.basename(os.readlink(self.directory))
        if is_name(found):
            self._name = found
        return self._name

    @property
    def path(self) -> str:
        """The path of its directory, by its name."""
        return os.path.join(self._views, self.name)

    @property
    def kept(self) -> Kept:
        """What stays the same if it is renamed."""
        st = os.fstat(self._descriptor)
        return Kept(views=self._views, device=st.st_dev, inode=st.st_ino)

    @property
    def upper(self) -> str:
        """The path of its own upper, which its first start makes, by its name."""
        return os.path.join(self.path, scratch.UPPER)

    @property
    def has_snapshots(self) -> bool:
        """Whether there may be some (`snapshots`)."""
        return os.path.lexists(self._file(SNAPSHOTS))

    @property
    def log(self) -> tuple[str, str]:
        """Paths of the files of its log, the older one first; they may be missing. Valid as `directory`."""
        return self._file(f"{_LOG}.1"), self._file(_LOG)

    def definition(self) -> Definition:
        """Raises: NoSuchView: it was removed, or its definition is damaged."""
        try:
            with open(self._file(DEFINITION), "rb") as file:
                found: Definition = codec.decode(file.read(), Definition)
        except (OSError, ValueError):
            raise NoSuchView(self.name) from None
        return found

    def redefine(self, definition: Definition) -> None:
        """Replace its definition, and keep what was written in it. Raises: ViewRuns, NoSuchView, OSError."""
        lock = self.lock()
        try:
            self._define(definition)
        finally:
            os.close(lock)

    def note_layers(self, layers: Sequence[str]) -> None:
        """Have its next start use other layers, as `-l` names them. Raises: NoSuchView, OSError."""
        self._define(self.definition().replace(layers=tuple(layers)))

    def _define(self, definition: Definition) -> None:
        path = self._file(DEFINITION)
        with open(path + ".new", "wb") as file:
            file.write(codec.encode(definition))
        os.rename(path + ".new", path)

    def ended(self) -> Ended | None:
        """How its last command ended; None if none has, or if the machine stopped first."""
        with suppress(OSError), self.open_status() as file:
            return read_status(file)
        return None

    def open_status(self) -> IO[bytes]:
        """The file for the status of its present or last command. An open one outlives the view. Raises: OSError."""
        return open(self._file(_STATUS), "rb", buffering=0)

    def was_started(self) -> bool:
        """Whether a command has run in it, or was to run."""
        return os.path.exists(self._file(_STARTED))

    def is_running(self) -> bool:
        """Whether it runs, or starts or ends."""
        return entry.is_locked(self.directory)

    def lock(self) -> int:
        """A descriptor that holds the lock, for a start or a change. Raises: ViewRuns, NoSuchView."""
        if not self._exists():
            raise NoSuchView(self.name)
        lock = _lock_alone(self.directory)
        if lock < 0:
            raise ViewRuns(self.name)
        if self._exists():
            return lock
        os.close(lock)
        raise NoSuchView(self.name)

    def _exists(self) -> bool:
        """Whether it was not removed."""
        return self.kept.name(self.name) is not None

    def lock_name(self) -> int:
        """A descriptor that keeps others from renaming it. Waits until they have. Raises: NoSuchView."""
        try:
            lock = os.open(self._file(_NAMED), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise NoSuchView(self.name) from None
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    def forbid_restart(self) -> None:
        """Have it stopped at the end of its command, until its next start."""
        with suppress(FileNotFoundError), open(self._file(_STOPPING), "wb"):
            pass

    def allow_restart(self) -> None:
        """The opposite."""
        with suppress(FileNotFoundError):
            os.unlink(self._file(_STOPPING))

    def may_restart(self) -> bool:
        """Whether it may be started again by itself."""
        return not os.path.lexists(self._file(_STOPPING))

    def lock_restarts(self) -> int:
        """A descriptor that holds the lock of the process that starts it again. Waits until another one has ended."""
        path = self._file(_RESTARTS)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    def is_restarting(self) -> bool:
        """Whether it runs, or is to be started again by itself."""
        return self.may_restart() and not self._await_restarts(fcntl.LOCK_NB)

    def _await_restarts(self, flags: int = 0) -> bool:
        """Wait until it is not started again by itself any more. Returns: false if LOCK_NB forbids the wait."""
        with suppress(FileNotFoundError), open(self._file(_RESTARTS), "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | flags)
            except BlockingIOError:
                return False
        return True

    def wait(self) -> Ended | None:
        """Wait until it is stopped. Returns: as `ended`, also of a view that is removed at its end."""
        with ExitStack() as stack:
            status = None
            with suppress(OSError):
                status = stack.enter_context(self.open_status())
            if self.may_restart():
                self._await_restarts()
            lock = lock_directory(self.directory, fcntl.LOCK_SH)
            if lock >= 0:
                os.close(lock)
            return self.ended() or (None if status is None else read_status(status))

    def rename(self, name: str) -> None:
        """Give it another name, in one step. Waits until it has started, if it starts.

        Raises: NameInvalid, NameTaken, NoSuchView, OSError.
        """
        if not is_name(name):
            raise NameInvalid(name)
        earlier, registry, lock = self._name, Registry(), self.lock_name()
        try:
            target = os.path.join(self._views, name)
            if os.path.lexists(target):
                raise NameTaken(name)
            with registry.locked():
                registry.prepare_rename(self.kept, name)
                with names_locked(self._views):
                    if not self.kept.is_named(earlier):
                        raise NoSuchView(earlier)
                    if os.path.lexists(target):
                        raise NameTaken(name)
                    os.rename(os.path.join(self._views, earlier), target)
        except FileNotFoundError:  # its supervisor has removed it
            raise NoSuchView(earlier) from None
        finally:
            os.close(lock)
            registry.remove_if_empty()

    def remove(self) -> None:
        """Remove it with all that was written in it.

        Raises: ViewRuns, NoSuchView, OSError; SnapshotUsed: another view goes on from one of its snapshots.
        """
        lock = self.lock()
        try:
            # At once; `staged` removes what a killed process leaves.
            unnamed = os.path.join(self._views, temporary_name())
            with names_locked(self._views):
                if self.has_snapshots:
                    from overlaykit.views import snapshots

                    snapshots.require_unused(self)
                os.rename(self.path, unnamed)
            scratch.remove(unnamed)
        finally:
            os.close(lock)

    def note_start(self) -> None:
        """Note that a command starts, and forget how an earlier one ended."""
        for name in (_STATUS, _INPUT):
            with suppress(FileNotFoundError):
                os.unlink(self._file(name))
        for name in (_STARTED, _STATUS):
            with open(self._file(name), "wb"):
                pass

    def make_input(self) -> tuple[int, int]:
        """Make the pipe that is the input of a detached command: its read end, and a write end. After `note_start`."""
        path = self._file(_INPUT)
        os.mkfifo(path, 0o600)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        writer = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.set_blocking(reader, True)
        return reader, writer

    def open_input(self) -> int | None:
        """Another write end, which does not block; None: the command has no such input, or has closed it."""
        with suppress(OSError):
            return os.open(self._file(_INPUT), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return None

    def record_of_status(self, directory: int) -> tuple[int, str]:
        """Where the supervisor writes the status (`namespace.End`); `directory`: a descriptor of its directory."""
        return directory, _STATUS

    def log_of(self, directory: int, stdout: int, stderr: int) -> Log:
        """The log of a detached command. `directory`: as for `record_of_status`; the others: the pipes' read ends."""
        return Log(stdout=stdout, stderr=stderr, directory=directory, name=_LOG, limit=LARGEST_LOG)


def read_status(file: IO[bytes]) -> Ended | None:
    """What the file of `NamedView.open_status` says; None: nothing yet."""
    file.seek(0)
    with suppress(ValueError):
        status, when = map(int, file.read().split())
        return Ended(status=status, time=when)
    return None


def define(
    arguments: Sequence[str],
    environment: Sequence[bytes],
    *,
    temporary: bool,
    labels: Mapping[str, str],
    restart: str = "no",
) -> Definition:
    """A definition for the current directory."""
    return Definition(
        arguments=tuple(arguments),
        environment=tuple(map(os.fsdecode, environment)),
        directory=os.getcwd(),
        created=time.time_ns(),
        temporary=temporary,
        labels=dict(labels),
        restart=restart,
    )


def create(
    name: str | None,
    arguments: Sequence[str],
    environment: Sequence[bytes],
    *,
    temporary: bool,
    labels: Mapping[str, str],
    restart: str = "no",
) -> NamedView:
    """Define a view; without a `name` one is chosen. Raises: NameInvalid, NameTaken, OSError."""
    if name is not None and not is_name(name):
        raise NameInvalid(name)
    name = name or f"view-{os.urandom(3).hex()}"
    definition = define(arguments, environment, temporary=temporary, labels=labels, restart=restart)
    store = places.views()
    with staged(store, base="/") as (_, path):
        with open(os.path.join(path, DEFINITION), "wb") as file:
            file.write(codec.encode(definition))
        try:
            with names_locked(store):
                os.rename(path, os.path.join(store, name))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise NameTaken(name) from None
    return NamedView(name)


def exists(name: str) -> bool:
    """Whether there is a view of that name."""
    with suppress(NoSuchView):
        NamedView(name)
        return True
    return False


def _lock_alone(directory: str) -> int:
    """Lock a directory against all others; -1 if another process has it so, or it is gone.

    Who looks whether a view runs, or waits for its end, shares the lock for a moment: that passes.
    """
    while (lock := lock_directory(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)) < 0:
        shared = lock_directory(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if shared < 0:
            break
        os.close(shared)
        os.sched_yield()
    return lock


def restarted_by(lock: int) -> NamedView:
    """The view whose `lock_restarts` this is. Raises: NoSuchView."""
    while True:
        path = os.readlink(f"/proc/self/fd/{lock}")
        name = os.path.basename(os.path.dirname(path))
        with suppress(NoSuchView, FileNotFoundError):
            view = NamedView(name)
            found = os.stat(os.path.join(view.directory, _RESTARTS))
            if os.path.samestat(found, os.fstat(lock)):
                return view
        if path == os.readlink(f"/proc/self/fd/{lock}"):
            raise NoSuchView(name)


def all_views() -> list[NamedView]:
    """All that exist, by their names. Those that are temporary and were killed are removed."""
    found = []
    with suppress(FileNotFoundError):
        for name in sorted(os.listdir(places.views())):
            with suppress(NoSuchView):
                view = NamedView(name)
                ended = view.was_started() and not view.is_running()
                if ended and view.definition().temporary:
                    with suppress(OSError, ViewRuns):
                        view.remove()
                else:
                    found.append(view)
    return found
