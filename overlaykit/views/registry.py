"""The registry of running views and mounts: one entry each, below the user's runtime directory."""

from __future__ import annotations

import fcntl
import os
import time

from overlaykit import signals
from overlaykit.errors import Error
from overlaykit.fuse.cleanup import lock_directory, remove_registry_if_empty
from overlaykit.record import Record
from overlaykit.scope import contextmanager, suppress
from overlaykit.views import entry, places, scratch
from overlaykit.views.entry import About, Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from overlaykit.overlay.explanation import Explanation
    from overlaykit.views.kept import Kept

_LONGEST_NAME: Final = 63

ANSWER_SECONDS: Final = 10.0
"""For a daemon, which answers within milliseconds unless the machine is overloaded."""


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


class NotRunning(Error):
    message = (
        "{0}: no view or mount of that name or mountpoint is running: 'overlaykit ps' lists them"
    )


class NotAView(Error):
    message = (
        "{0}: a mount, in which no command runs: use its files where it is mounted"
        " ('overlaykit stats --requests {0}' shows its requests)"
    )


class DaemonSilent(Error):
    message = (
        "{0}: its daemon, process {1}, has not answered for {2} seconds: 'kill -CONT {1}' continues "
        "one that is stopped; else a disk below may not answer"
    )


class RunningView(Record):
    """A view, or a mount alone, that is running. `control`: the socket of its daemon."""

    about: About
    control: str

    @property
    def entry(self) -> str:
        return os.path.dirname(self.control)

    def is_running(self) -> bool:
        """Whether it has not ended since."""
        return entry.is_locked(self.entry)

    def present_path(self, path: str) -> str:
        """The path now of what its daemon knows by a path of its start."""
        noted, kept = entry.read(self.entry), self.about.kept
        if noted is None or kept is None:
            return path
        return kept.moved_below(path, noted.name, self.about.name)

    def with_present_paths(self, found: Explanation) -> Explanation:
        """What its daemon says, which knows the upper by the path of its start."""
        present = self.present_path

        hits = (
            hit.replace(
                layer=present(hit.layer),
                path=present(hit.path),
                hidden=hit.hidden and hit.hidden.replace(path=present(hit.hidden.path)),
            )
            for hit in found.hits
        )
        return found.replace(hits=tuple(hits))

    def describe_holders(self) -> str:
        """The processes that keep its mount in use, for a message."""
        from overlaykit.fuse import holders

        found = holders.find(self.about.device, besides=self.about.daemons)
        if found:
            return holders.describe(found)
        return f"its daemon alone (process {self.about.daemon})"


class Registry:
    """The entries of one user."""

    def __init__(self) -> None:
        self._root = places.runtime()

    def enter(self, name: str | None) -> Entry:
        """Make an entry; without a `name` the registry chooses one. Raises: NameInvalid, NameTaken, EntryUnwritable."""
        if name is not None and not is_name(name):
            raise NameInvalid(name)
        chosen = name or f"view-{os.urandom(3).hex()}"
        while True:
            # A new entry is unlocked at first: no other command may remove it.
            root_lock = self._lock_root()
            try:
                self.remove_ended()
                ended = self._entry_of(chosen)
                with entry.writing_entries(self._root):
                    if ended is None and (path := self._make(chosen)):
                        return Entry(path)
            finally:
                os.close(root_lock)
            if ended is not None:
                _await_cleanup(ended)

    def _make(self, name: str) -> str | None:
        """Make the directories of an entry. Returns: its path; None if it has to be tried again."""
        path = os.path.join(self._root, name)
        try:
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:  # of a view that was renamed
                path = entry.numbered(path)
                os.mkdir(path, 0o700)
        except (
            FileNotFoundError
        ):  # a supervisor has removed the empty registry, which it does without a lock
            return None
        try:
            os.mkdir(os.path.join(path, "stage"), 0o700)
        except OSError:
            os.rmdir(path)
            raise
        return path

    def _entry_of(self, name: str) -> str | None:
        """The path of the entry of an ended view of this name. Raises: NameTaken: it has not ended."""
        found = None
        for path in self.paths():
            if entry.name_at(path) == name:
                about = entry.read(path)
                if entry.is_view_locked(path) or (about is not None and about.target is not None):
                    raise NameTaken(name)
                found = path
        return found

    def prepare_rename(self, renamed: Kept, name: str) -> None:
        """Let a named view have another name. Requires: `locked`. Raises: NameTaken, EntryUnwritable."""
        self._entry_of(name)
        for path in self.paths():
            about = entry.read(path)
            if about is not None and renamed.is_same(about.kept):
                entry.note_rename(path)

    def rename(self, view: RunningView, name: str) -> None:
        """Give a view that has no directory (`named`) another name. Raises: NameInvalid, NameTaken, NotRunning."""
        if not is_name(name):
            raise NameInvalid(name)
        with self.locked():
            self._entry_of(name)
            if entry.read(view.entry) != view.about or not view.is_running():
                raise NotRunning(view.about.name)
            entry.note_rename(view.entry)
            entry.publish(view.entry, view.about.replace(name=name))

    def running(self) -> list[RunningView]:
        """All that are running, oldest first."""
        found = []
        for path in self.paths():
            with suppress(OSError):
                about = entry.read(path)
                if about is None or not entry.is_locked(path):
                    continue
                if about.target is not None or entry.is_view_locked(path):
                    named = entry.current(about)
                    if named is not None:
                        found.append(RunningView(named.serving, entry.control_socket(path)))
        return sorted(found, key=lambda view: view.about.started)

    def find(self, wanted: str) -> RunningView:
        """The one that is mounted at `wanted` in this mount namespace, or has that name.

        Raises: NotRunning, mountpoints.DeadMount.
        """
        from overlaykit.fuse import mountpoints

        with suppress(FileNotFoundError):  # the working directory was deleted
            mounted = mountpoints.find(wanted)
            found = None if mounted is None else self.find_device(mounted.device)
            if found is not None:
                return found
            if mounted is not None:
                os.close(mountpoints.open_target(wanted))  # raises an error if it is dead
        for view in self.running():
            if view.about.name == wanted:
                return view
        raise NotRunning(wanted)

    def find_view(self, wanted: str) -> RunningView:
        """As `find`, of a view, in which commands run. Raises: NotAView, and as `find`."""
        found = self.find(wanted)
        if found.about.target is not None:
            raise NotAView(wanted)
        return found

    def find_kept(self, kept: Kept, name: str) -> RunningView:
        """The one whose directory this is; `name`: for the message. Raises: NotRunning."""
        for view in self.running():
            if kept.is_same(view.about.kept):
                return view
        raise NotRunning(name)

    def find_device(self, device: int) -> RunningView | None:
        """The one whose mount has this device number."""
        return next((view for view in self.running() if view.about.device == device), None)

    def find_mount(self, wanted: str) -> RunningView | None:
        """The mount that has the name `wanted` or was mounted there in this mount namespace; it may be detached."""
        if not wanted:
            return None  # and not the working directory
        path, here = os.path.realpath(wanted), mount_namespace()
        mounts = [view for view in self.running() if view.about.target is not None]
        for view in mounts:
            if view.about.name == wanted:
                return view
        for view in reversed(mounts):
            if (view.about.target, view.about.namespace) == (path, here):
                return view
        return None

    def remove_ended(self) -> None:
        """Remove the entries of views that were killed, and what was written in views whose entry was lost."""
        for path in self.paths():
            if not entry.is_locked(path):
                entry.remove_unlocked(path)
        scratch.remove_lost(self._root)

    def remove_if_empty(self) -> None:
        """Remove the registry's directory if nothing is running, and the empty directories of scratch."""
        remove_registry_if_empty(self._root, *places.private_scratch())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from making entries, and from the leases of `networks`, during the block."""
        lock = self._lock_root()
        try:
            yield
        finally:
            os.close(lock)

    def _lock_root(self) -> int:
        """Lock the registry's directory; make it again if `remove_if_empty` of another process removes it first."""
        while True:
            lock = lock_directory(places.private(self._root), fcntl.LOCK_EX)
            if lock >= 0:
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(lock), os.stat(self._root)):
                        return lock
                os.close(lock)

    def paths(self) -> Iterator[str]:
        """The directories of the entries, and of others in the registry."""
        try:
            with os.scandir(self._root) as found:
                names = [one.name for one in found if one.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return
        for name in names:
            yield os.path.join(self._root, name)


def _await_cleanup(path: str) -> None:
    """Wait until the daemon of a view that has ended has removed its entry. Signals arrive during the wait."""
    about = entry.read(path)
    if about is None:
        lock = lock_directory(path, fcntl.LOCK_SH)
        if lock >= 0:
            os.close(lock)
    if about is None or not about.daemon:
        return
    with suppress(ProcessLookupError):
        ended = os.pidfd_open(about.daemon)
        try:
            signals.await_readable(ended)
        finally:
            os.close(ended)


def explain_at(socket: str, path: str, *, name: str, daemon: int) -> Explanation:
    """What a path means, says the process `daemon` of the view `name`, which listens on `socket`.

    Raises: DaemonSilent, OSError (ENOENT and the like).
    """
    from overlaykit.fuse import control
    from overlaykit.overlay.explanation import Explanation

    try:
        return control.ask(socket, control.Explain(path), Explanation, seconds=ANSWER_SECONDS)
    except (TimeoutError, BlockingIOError):  # EAGAIN: too many clients wait already
        raise DaemonSilent(name, daemon, round(ANSWER_SECONDS)) from None


def is_name(text: str) -> bool:
    """Whether a view can have the name."""
    return (
        text.isascii()
        and text[:1].isalnum()
        and len(text) <= _LONGEST_NAME
        and all(letter.isalnum() or letter in "._-" for letter in text)
    )


def mount_namespace() -> int:
    """The inode number that identifies this process's mount namespace."""
    return os.stat("/proc/self/ns/mnt").st_ino


def now() -> int:
    """The time in nanoseconds since the epoch."""
    return time.time_ns()
