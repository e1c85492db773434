"""The processes of a mount, daemons included.

`reap_on_exit` makes this process a subreaper for good (prctl(2)), so that it can wait for a daemon whose parent ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from typing import Final

from overlaykit import _native, procfs

TIMEOUT_SECONDS: Final = 10.0
"""The limit for steps that take milliseconds when they work."""


@contextlib.contextmanager
def reap_on_exit() -> Iterator[None]:
    """At the end of the block, wait for the processes that it started; kill them after TIMEOUT_SECONDS."""
    before = _children()
    _native.prctl(_native.PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        while started := _children() - before:  # the end of one may leave another orphan
            for process in started:
                _end(process)


def _end(process: int) -> None:
    """Wait for a child, which may be a zombie or reaped already."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process)
        try:
            if not select.select([descriptor], [], [], TIMEOUT_SECONDS)[0]:
                os.kill(process, signal.SIGKILL)
        finally:
            os.close(descriptor)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)


def _children() -> set[int]:
    return set(procfs.children(os.getpid()))
