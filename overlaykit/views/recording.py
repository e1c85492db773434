"""What is kept of a command in a machine: its log and status, as native/logs.c and native/supervisor.c write them."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from overlaykit.scope import suppress

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlaykit.namespace.spec import Log

Stream = Literal["stdout", "stderr"]
_LONGEST_LINE: Final = 16384
"""Bytes; longer ones have several records."""
_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class LogWriter:
    """The log of a detached command. A disk that takes no more loses records and does not hold the command up.

    `at_once`: lines of a terminal are written before they end.
    """

    def __init__(self, log: Log, *, at_once: bool) -> None:
        self._log: Final = log
        self._at_once: Final = at_once
        self._held: Final[dict[Stream, bytes]] = {"stdout": b"", "stderr": b""}

    def write(self, stream: Stream, content: bytes) -> None:
        """Take what a stream has written."""
        *lines, rest = (self._held[stream] + content).split(b"\n")
        for line in lines:
            self._write_line(stream, line, whole=True)
        if rest and (self._at_once or len(rest) >= _LONGEST_LINE):
            self._write_line(stream, rest, whole=False)
            rest = b""
        self._held[stream] = rest

    def sinks(self) -> tuple[Callable[[bytes], None], Callable[[bytes], None]]:
        """What takes the outputs of a session."""
        return partial(self.write, "stdout"), partial(self.write, "stderr")

    def finish(self) -> None:
        """Write what no line end has followed."""
        for stream, rest in self._held.items():
            if rest:
                self._write_line(stream, rest, whole=False)
            self._held[stream] = b""

    def _write_line(self, stream: Stream, line: bytes, *, whole: bool) -> None:
        while len(line) > _LONGEST_LINE:
            self._write_record(stream, b"P", line[:_LONGEST_LINE])
            line = line[_LONGEST_LINE:]
        self._write_record(stream, b"F" if whole else b"P", line)

    def _write_record(self, stream: Stream, mark: bytes, text: bytes) -> None:
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        record = b"%b.%09dZ %b %b %b\n" % (when.encode(), nanoseconds, stream.encode(), mark, text)
        name, directory = self._log.name, self._log.directory
        with suppress(OSError):
            file = os.open(name, _FILE, 0o600, dir_fd=directory)
            try:
                size = os.fstat(file).st_size
                if size and size + len(record) > self._log.limit:
                    os.rename(name, f"{name}.1", src_dir_fd=directory, dst_dir_fd=directory)
                    os.close(file)
                    file = os.open(name, _FILE, 0o600, dir_fd=directory)
                if os.write(file, record) < len(record):
                    os.write(file, b"\n")  # half a record would be read as one
            finally:
                os.close(file)


def record_status(place: tuple[int, str], status: int) -> None:
    """Write how a command has ended into a file of a directory (`namespace.End`)."""
    directory, name = place
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(OSError):
        file = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            os.write(file, b"%d %d\n" % (status, time.time_ns()))
        finally:
            os.close(file)
