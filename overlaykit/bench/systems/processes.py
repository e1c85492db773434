"""The processes that a mount consists of, also those that a command leaves behind as daemons.

From the first of them on this process is a subreaper (prctl(2)): a daemon that forked itself away from its starter
becomes our child, so that its end can be waited for.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from typing import Final

from overlaykit import _native, procfs

PATIENCE: Final = 10.0
"""Seconds that something may take which takes milliseconds unless it is broken."""


@contextlib.contextmanager
def looked_after() -> Iterator[None]:
    """At the end, wait for what was started meanwhile; what does not end by itself is killed."""
    before = _children()
    _native.prctl(_native.PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        while started := _children() - before:  # ending, one may leave us another
            for process in started:
                _end(process)


def _end(process: int) -> None:
    """Wait for a child; a zombie, or one that was waited for meanwhile, has ended already."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process)
        try:
            if not select.select([descriptor], [], [], PATIENCE)[0]:
                os.kill(process, signal.SIGKILL)
        finally:
            os.close(descriptor)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)


def _children() -> set[int]:
    return set(procfs.children(os.getpid()))
