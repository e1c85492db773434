"""Standard output and error of the command, which may be closed, full, or a pipe whose reader is gone."""

from __future__ import annotations

import io
import os
import sys
from typing import Final, TextIO

from overlaykit.errors import Error

_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    ord("\n"): "\\n",
    ord("\t"): "\\t",
}
_OUTPUT: Final = 1
_ERROR: Final = 2


class Unwritable(Error):
    message = (
        "standard output cannot be written to ({0}): make room there, or let it lead elsewhere"
    )


class ReaderGone(Exception):
    """The reader of standard output has seen enough; no `BrokenPipeError`, which libraries take for their own."""


class _Output(io.FileIO):
    """Standard output, whose failures are told apart from those of other files."""

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError as error:
            raise ReaderGone from error
        except OSError as error:
            raise Unwritable(error.strerror) from error


class _Complaints(io.FileIO):
    """Standard error: what cannot be written there can be told nowhere, so it is dropped."""

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def one_line(text: str) -> str:
    """A text with its control characters as escapes: names may hold any, newlines and terminal sequences too."""
    return text.translate(_CONTROLS)


def tell(message: str) -> None:
    """Write one line to standard error."""
    print(f"overlaykit: {one_line(message)}", file=sys.stderr, flush=True)


def adopt() -> None:
    """Let `sys.stdout` and `sys.stderr` write names of any bytes, and fail as described here.

    Requires: `standard.fill`.
    """
    sys.stdout = _text(_Output(_OUTPUT, "w", closefd=False), like=sys.stdout)
    sys.stderr = _text(_Complaints(_ERROR, "w", closefd=False), like=sys.stderr)


def drop() -> None:
    """Let what is still to be printed go nowhere, so that the interpreter can end in peace."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, _OUTPUT)
    os.close(null)


def _text(raw: io.FileIO, *, like: TextIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=like.encoding,
        errors="surrogateescape",
        line_buffering=raw.fileno() == _ERROR or raw.isatty(),
    )
