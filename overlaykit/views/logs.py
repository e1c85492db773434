"""Read the log of a detached view, which its supervisor writes (native/logs.c)."""

from __future__ import annotations

import os

from overlaykit import record
from overlaykit.namespace.descriptors import is_readable, poll_readable
from overlaykit.scope import closing, suppress
from overlaykit.views import ending
from overlaykit.views.registry import NotRunning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Final

    from overlaykit.views.named import NamedView

_STREAMS: Final = ("stdout", "stderr")
_PAUSE_MILLISECONDS: Final = 50
_CHANGES: Final = 0x2 | 0x40 | 0x80 | 0x100
"""IN_MODIFY, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE (include/uapi/linux/inotify.h)."""


class Record(record.Record, kw_only=True):
    """A line, or a part of a long one."""

    time: str
    """In UTC, as ISO 8601 with nanoseconds; texts compare as times do."""
    stream: str
    """"stdout" or "stderr"."""
    whole: bool
    """Whether the line ends here."""
    text: bytes


def read(view: NamedView) -> Iterator[Record]:
    """What there is, oldest first."""
    for path in view.log:
        with suppress(FileNotFoundError), open(path, "rb") as file:
            yield from _records(file)


def follow(view: NamedView) -> Iterator[Record]:
    """What there is and what comes, until the view is stopped."""
    with closing(Follower(view)) as log:
        while True:
            # Before the files are read: what is written later wakes the next round.
            running = view.is_running() or view.is_restarting()
            yield from log.records()
            if not running:
                return
            try:
                with ending.supervisor(view) as supervisor:
                    poll_readable([log.changes, supervisor])
            except NotRunning:  # it starts, ends, or waits for its next start
                poll_readable([log.changes], milliseconds=_PAUSE_MILLISECONDS)


class Follower:
    """A reader of the log of a view that runs: of the whole log, or of what comes `from_now` on.

    `changes`: a descriptor that is readable when there may be more.
    """

    def __init__(self, view: NamedView, *, from_now: bool = False) -> None:
        self._view = view  # as long as its paths are used
        older, self._path = view.log
        self._files: list[IO[bytes]] = []
        for path in (self._path,) if from_now else (older, self._path):
            with suppress(FileNotFoundError):
                self._files.append(open(path, "rb"))  # noqa: SIM115  # until `close`
        if from_now and self._files:
            self._files[0].seek(0, os.SEEK_END)
        # Last, so that who sees it watch knows that it misses nothing any more; what came before is read first.
        try:
            self.changes = watch(view.directory)
        except OSError:
            for file in self._files:
                file.close()
            raise

    def close(self) -> None:
        os.close(self.changes)
        for file in self._files:
            file.close()

    def records(self) -> Iterator[Record]:
        """Those since the last call, also where the file was renamed since."""
        if is_readable(self.changes):
            os.read(self.changes, 1 << 16)
        while True:
            if not self._files:
                try:
                    self._files.append(open(self._path, "rb"))  # noqa: SIM115  # until `close`
                except FileNotFoundError:
                    return
            yield from _records(self._files[0])
            if not _is_replaced(self._files[0], self._path):
                return
            # Nothing is written to a renamed file any more.
            yield from _records(self._files[0])
            self._files.pop(0).close()


def _records(file: IO[bytes]) -> Iterator[Record]:
    """The whole records from here on. The supervisor writes a record at once."""
    for line in file:
        if not line.endswith(b"\n"):
            file.seek(-len(line), os.SEEK_CUR)
            return
        fields = line[:-1].split(b" ", 3)
        if len(fields) == len(Record.fields) and fields[1].decode() in _STREAMS:
            time, stream, mark, text = fields
            yield Record(time=time.decode(), stream=stream.decode(), whole=mark == b"F", text=text)


def _is_replaced(file: IO[bytes], path: str) -> bool:
    try:
        return not os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return True


def watch(directory: str) -> int:
    """An inotify descriptor, readable after a change in a directory (inotify(7))."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0 or libc.inotify_add_watch(descriptor, os.fsencode(directory), _CHANGES) < 0:
        number = ctypes.get_errno()
        if descriptor >= 0:
            os.close(descriptor)
        raise OSError(number, f"cannot watch: {os.strerror(number)}", directory)
    return int(descriptor)
