"""Programs that end with the block that uses them, also if a signal interrupts it."""

from __future__ import annotations

import contextlib
import functools
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from overlaykit import signals


@contextlib.contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
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
        yield process


def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """`running` to the program's end, as subprocess.run."""
    with running(command, **options) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _kill_after_error(process: subprocess.Popen[Any], kind: object, *_: object) -> None:
    if kind is not None:
        process.kill()
