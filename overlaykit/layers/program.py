"""Programs that end with the block that uses them, also if a signal interrupts it."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from overlaykit import signals

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


_PIPE: Final = 1 << 16
"""The bytes of a pipe (pipe(7))."""


class _Output(io.RawIOBase):
    """The read end of a program's pipe. Closes it.

    A handler whose signal arrives just before read(2) runs only after it, which may be never: the program may write
    nothing. So signals are held until there is something to read.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def fileno(self) -> int:
        return self._pipe

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        with signals.held():
            signals.await_readable(self._pipe)
        return os.readv(self._pipe, [buffer])

    def close(self) -> None:
        if not self.closed:
            os.close(self._pipe)
        super().close()


@contextlib.contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program, started with the options of subprocess.Popen: killed if the block raises, then waited for.

    Without this an exception that a signal's handler raises inside Popen leaves the program running.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    unblock = functools.partial(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
    with contextlib.ExitStack() as stack:
        with signals.all_blocked():
            process = stack.enter_context(
                subprocess.Popen(command, preexec_fn=unblock, **options)  # only a system call
            )
            stack.push(functools.partial(_kill_after_error, process))
            for name in ("stdout", "stderr"):
                if pipe := getattr(process, name):
                    setattr(process, name, io.BufferedReader(_Output(os.dup(pipe.fileno())), _PIPE))
                    pipe.close()
        yield process


def errors_of(command: Sequence[str], **options: Any) -> tuple[int, str]:
    """Run a program to its end, as `running`. Returns: its exit status, and what it wrote to standard error."""
    with running(command, stderr=subprocess.PIPE, **options) as process:
        assert process.stderr is not None
        errors = process.stderr.read()
    return process.returncode, errors.decode(errors="replace")


def _kill_after_error(process: subprocess.Popen[Any], kind: object, *_: object) -> None:
    if kind is not None:
        process.kill()
