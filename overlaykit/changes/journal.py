"""The journal of an application: what is to be done, on the disk before it is done.

A record is its length, a checksum and JSON. One that a crash has cut off is recognised by these, and is none, as are
those behind it. The steps lie in one record: all of them are on the disk before the first one is taken. How far they
were taken is not written down: the inode numbers of the files in question tell it (`steps`).
"""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib

from overlaykit import codec
from overlaykit.changes.steps import Step
from overlaykit.errors import Error
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, TypeAlias

NAME: Final = b"journal"

_FRAME: Final = struct.Struct("<II")
"""Before each record: the length in bytes, and the CRC-32 of its bytes."""
_RESERVE: Final = 4096
"""Bytes behind the steps, so that a full disk does not forbid to write how it ended."""
_VERSION: Final = 3
"""1: without `Step.held`. 2: without the operation `remove`."""


class JournalOfLater(Error):
    message = "{0}: a later version of overlaykit wrote this journal: use that one"


class Begun(Record, kw_only=True):
    """What was asked for, to be asked for again."""

    version: int = _VERSION
    root: int
    """The inode number of the target's root."""
    upper: str
    frozen: tuple[str, ...] = ()
    """Uppers that were frozen, on which the upper lies."""
    lowers: tuple[str, ...]
    """The directories that the changes were read from."""
    within: str = ""
    paths: tuple[str, ...]
    without: tuple[str, ...] = ()
    choice: str
    merges: bool = False
    merged: tuple[str, ...] = ()
    """Paths of files that are neither the view's nor what the target had, but merged."""
    consumes: bool
    is_last: bool = False
    """Whether the upper is removed once it is applied: what it held is dropped when that is taken back."""
    store: str
    """The directory to which what the upper holds goes, or empty."""


class Applied(Record, kw_only=True):
    """Every step was taken. `time_ns`: by the clock of the file system.

    `touched`: inode numbers of files that a later application displaced and put back, until `touched_ns`.
    """

    time_ns: int
    touched: tuple[int, ...] = ()
    touched_ns: int = 0


class Undoing(Record, kw_only=True):
    """What was applied is being taken back."""


class Undone(Record, kw_only=True):
    """Every step was taken back. `time_ns`: as of `Applied`."""

    time_ns: int


_End: TypeAlias = Applied | Undoing | Undone
_Mark: TypeAlias = Begun | Applied | Undoing | Undone


class Journal:
    """The journal of one application, open for reading and appending.

    `begun`, `steps`, `end`: what it says; `steps` is None until all are there.
    """

    def __init__(self, state: int, *, create: bool = False) -> None:
        """Open the journal in the directory `state`. Raises: OSError, JournalOfLater."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        self._fd = os.open(NAME, flags, 0o600, dir_fd=state)
        self.begun: Begun | None = None
        self.steps: list[Step] | None = None
        self.end: _End | None = None
        self._size = 0
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._fd)

    def begin(self, begun: Begun) -> None:
        """Write what was asked for. Raises: OSError."""
        # Without the steps nothing is lost with it but a directory beside the upper, which it names.
        self._append(codec.encode(begun), sync=bool(begun.store))
        self.begun = begun

    def plan(self, steps: Sequence[Step]) -> None:
        """Write all steps; the first one may be taken when this returns. Raises: OSError."""
        payload = json.dumps(steps, separators=(",", ":")).encode()
        end = self._size + _FRAME.size + len(payload)
        os.posix_fallocate(self._fd, self._size, end - self._size + _RESERVE)
        self._append(payload)
        self.steps = list(steps)

    def finish(self, end: _End) -> None:
        """Write how it ended, or that it is to end otherwise. Raises: OSError."""
        self._append(codec.encode(end))
        self.end = end

    def _append(self, payload: bytes, *, sync: bool = True) -> None:
        frame = _FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        written = 0
        while written < len(frame):
            written += os.pwrite(self._fd, memoryview(frame)[written:], self._size + written)
        if sync:
            os.fsync(self._fd)
        self._size += len(frame)

    def _read(self) -> None:
        raw = b""
        while chunk := os.pread(self._fd, 1 << 24, len(raw)):
            raw += chunk
        at = 0
        while at + _FRAME.size <= len(raw):
            length, checksum = _FRAME.unpack_from(raw, at)
            payload = raw[at + _FRAME.size : at + _FRAME.size + length]
            if not length or len(payload) < length or zlib.crc32(payload) != checksum:
                break  # cut off, or the reserve
            self._take(payload)
            at += _FRAME.size + length
        self._size = at

    def _take(self, payload: bytes) -> None:
        if payload.startswith(b"["):
            self.steps = [Step.of(row) for row in json.loads(payload)]
            return
        try:
            mark: _Mark = codec.decode(payload, _Mark)
        except ValueError as error:
            raise OSError(errno.EIO, str(error), os.fsdecode(NAME)) from None
        if isinstance(mark, Begun):
            if mark.version > _VERSION:
                raise JournalOfLater(os.fsdecode(NAME))
            self.begun = mark
        else:
            self.end = mark
