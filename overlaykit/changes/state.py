"""The directory `.overlaykit-apply` in the root of a target: what finishes applications, and takes them back.

    .overlaykit-apply/N/journal   what was asked for, the steps, and how it ended
    .overlaykit-apply/N/new/      files that are complete, until they are put in place; after that what they displaced
    .overlaykit-apply/N/old/      what was deleted, and what is on its way to another name
    .overlaykit-apply/N/upper/    what the upper held, where the application takes its files

It lies in the target: there it is on the same file system, so that what is displaced is renamed and not copied; it is
found wherever the tree is moved or mounted; and who may write the tree may write it. Only its owner may look into it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from overlaykit import attributes
from overlaykit.changes.journal import Applied, Begun, Journal, Undone
from overlaykit.changes.model import STATE
from overlaykit.errors import Error
from overlaykit.rmtree import rmtree
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REMOVED: Final = b".removed"
PARTS: Final = (b"new", b"old", b"upper")


class ForeignState(Error):
    message = (
        "{0}: its directory .overlaykit-apply belongs to another user, who alone can go on there"
    )


class InProgress(Error):
    message = (
        "{0}: another process applies changes to it, or takes them back: wait until it has ended"
    )


class CutOff(Error):
    message = (
        "{0}: an application was cut off: finish it ('overlaykit apply --resume {0}') or take it back "
        "('overlaykit apply --undo {0}') first"
    )


class NothingApplied(Error):
    message = "{0}: no changes were applied to it, or they were dropped: there is nothing to {1}"


class State:
    """The state directory of a target, locked. `root`: the target's root, whose times it keeps; not owned."""

    def __init__(self, root: int, path: str, *, create: bool) -> None:
        """Open it. Raises: Error, OSError; NothingApplied without one, unless it is made."""
        self._root = root
        self.path = path
        self._times: os.stat_result | None = os.fstat(root)
        if create:
            with suppress(FileExistsError):
                os.mkdir(STATE, 0o700, dir_fd=root)
        try:
            self._fd = os.open(STATE, _DIRECTORY, dir_fd=root)
        except FileNotFoundError:
            raise NothingApplied(path, "do") from None
        except PermissionError:
            raise ForeignState(path) from None
        try:
            st = os.fstat(self._fd)
            if st.st_uid != os.geteuid() or stat.S_IMODE(st.st_mode) & 0o077:
                raise ForeignState(path)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InProgress(path) from None
            if os.fstat(self._fd).st_nlink == 0:  # removed by the one that had the lock
                raise InProgress(path)
            self._remove_rest()
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Remove it if it is empty, and give the target's root its times back."""
        with suppress(OSError):
            os.rmdir(STATE, dir_fd=self._root)
        os.close(self._fd)
        self.keep_times()

    def keep_times(self) -> None:
        """Give the target's root the times back that it had, until `forget_times`."""
        if self._times is not None:
            with suppress(OSError):
                attributes.set_times(self._root, ".", None, self._times.st_mtime_ns)

    def forget_times(self) -> None:
        """The steps have set the times of the target's root."""
        self._times = os.fstat(self._root)

    @property
    def root_times(self) -> os.stat_result:
        """The target's root before the state directory was made."""
        assert self._times is not None
        return self._times

    def passed_time(self) -> int:
        """The time by the file system's clock, which all later changes of files exceed. Raises: OSError."""
        # By the directory itself: a full disk has no room for a file.
        os.utime(self._fd)
        first = os.fstat(self._fd).st_ctime_ns
        # A file that is changed within the same tick of the clock has the same time.
        while os.fstat(self._fd).st_ctime_ns == first:
            os.utime(self._fd)
        return first

    def _remove_rest(self) -> None:
        for name in os.listdir(self._fd):
            if os.fsencode(name).endswith(_REMOVED):
                rmtree(self._fd, os.fsencode(name))

    def names(self) -> list[bytes]:
        """The applications, the oldest first."""
        return sorted(
            (os.fsencode(name) for name in os.listdir(self._fd) if name.isdigit()), key=int
        )

    def new(self) -> Application:
        """The directory of a new application. Requires: the last one is applied. Raises: OSError."""
        names = self.names()
        name = b"%d" % (int(names[-1]) + 1 if names else 1)
        os.mkdir(name, 0o700, dir_fd=self._fd)
        fd = os.open(name, _DIRECTORY, dir_fd=self._fd)
        try:
            for part in PARTS:
                os.mkdir(part, 0o700, dir_fd=fd)
            # `git add --all` in a target would add what was displaced.
            ignored = os.open(b".gitignore", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd)
            with os.fdopen(ignored, "wb") as file:
                file.write(b"*\n")
            journal = Journal(fd, create=True)
        except BaseException:
            os.close(fd)
            self.remove(name)
            raise
        return Application(name, fd, journal)

    def open(self, name: bytes) -> Application:
        """An application that began earlier. Raises: OSError."""
        fd = os.open(name, _DIRECTORY, dir_fd=self._fd)
        try:
            return Application(name, fd, Journal(fd))
        except FileNotFoundError:  # it was to be written
            return Application(name, fd, None)
        except BaseException:
            os.close(fd)
            raise

    def applications(self) -> Iterator[Application]:
        """All, the oldest first; each is closed when the next one is taken."""
        for name in self.names():
            one = self.open(name)
            try:
                yield one
            finally:
                one.close()

    def remove(self, name: bytes) -> None:
        """Remove an application, with all that it holds. Raises: OSError."""
        gone = name + _REMOVED
        os.rename(name, gone, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.fsync(self._fd)  # before the first file of it
        rmtree(self._fd, gone)


class Application:
    """One application, open. `fd`: its directory."""

    def __init__(self, name: bytes, fd: int, journal: Journal | None) -> None:
        self.name = name
        self.fd = fd
        self._journal = journal

    @property
    def journal(self) -> Journal:
        if self._journal is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), "journal")
        return self._journal

    @property
    def begun(self) -> Begun | None:
        """What was asked for; None if it ended before that was written."""
        return None if self._journal is None else self._journal.begun

    @property
    def is_unplanned(self) -> bool:
        """Whether it ended before its first step: the target is as it was."""
        return self._journal is None or self._journal.steps is None

    @property
    def is_cut_off(self) -> bool:
        """Whether some of its steps may have been taken, and not all."""
        return not self.is_unplanned and not (self.is_applied or self.is_undone)

    @property
    def is_applied(self) -> bool:
        return self._journal is not None and isinstance(self._journal.end, Applied)

    @property
    def is_undone(self) -> bool:
        return self._journal is not None and isinstance(self._journal.end, Undone)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
        os.close(self.fd)
