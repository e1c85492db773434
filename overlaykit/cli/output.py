"""Standard output and error of the command, which may be closed, full, or a pipe whose reader is gone."""

from __future__ import annotations

import io
import os
import sys

from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TextIO

_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    ord("\n"): "\\n",
    ord("\t"): "\\t",
}
_CONTROLS.update(
    (code, f"\\u{code:04x}")  # they reorder what follows (Unicode Standard Annex 9)
    for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
)
_STDOUT: Final = 1
_STDERR: Final = 2


class StdoutUnwritable(Error):
    message = "standard output cannot be written to ({0}): make room there, or redirect it"


class ReaderGone(Exception):
    """The reader of standard output has closed it. Not a `BrokenPipeError`, which libraries handle themselves."""


class _Stdout(io.FileIO):
    """Standard output, which raises exceptions of its own."""

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError as error:
            raise ReaderGone from error
        except OSError as error:
            raise StdoutUnwritable(error.strerror) from error


class _Stderr(io.FileIO):
    """Standard error, which drops what it cannot write."""

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def one_line(text: str) -> str:
    """A text with its control characters escaped: names may hold newlines, terminal sequences, changes of direction."""
    return text if text.isprintable() else text.translate(_CONTROLS)


def print_error(message: str) -> None:
    """Write one line to standard error."""
    print(f"overlaykit: {one_line(message)}", file=sys.stderr, flush=True)


def has_colours(stream: TextIO | None = None) -> bool:
    """Whether a stream, by default standard output, takes colours.

    It is a terminal, and NO_COLOR is not set (no-color.org).
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return not plain and (stream or sys.stdout).isatty()


def coloured(text: str, colour: int, stream: TextIO | None = None) -> str:
    """A text in a colour of ECMA-48 (31: red, 32: green, 33: yellow), if a stream, by default stdout, takes colours."""
    return f"\033[{colour}m{text}\033[0m" if has_colours(stream) else text


def replace_streams() -> None:
    """Replace `sys.stdout` and `sys.stderr` by `_Stdout` and `_Stderr`, which write names of any bytes.

    Requires: `standard.fill`.
    """
    sys.stdout = _text(_Stdout(_STDOUT, "w", closefd=False), like=sys.stdout)
    sys.stderr = _text(_Stderr(_STDERR, "w", closefd=False), like=sys.stderr)


def discard_stdout() -> None:
    """Redirect standard output to /dev/null, so that the interpreter's last flush succeeds."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, _STDOUT)
    os.close(null)


def _text(raw: io.FileIO, *, like: TextIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=like.encoding,
        errors="surrogateescape",
        line_buffering=raw.fileno() == _STDERR or raw.isatty(),
    )
