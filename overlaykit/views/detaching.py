"""Leave a view running without its caller."""

from __future__ import annotations

import os

from overlaykit import signals
from overlaykit.record import Record
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


class Streams(Record, kw_only=True):
    """Descriptors of a detached process: both ends of the pipes of its command's output, and the pipe to its parent."""

    stdout: tuple[int, int]
    stderr: tuple[int, int]
    announce: int | None


def detach(body: Callable[[Streams], NoReturn]) -> int:
    """Run `body` in a process of a session of its own, until it or what it executes writes into `Streams.announce`.

    That process has standard error until then, and no other stream of the caller. What `body` raises, this function
    raises there.

    Requires: no other thread.
    Returns: 0, or the exit status of a process that ended first.
    """
    ready, announce = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for standard in (0, 1):
            os.dup2(null, standard)
        os.close(null)
        body(Streams(stdout=os.pipe(), stderr=os.pipe(), announce=announce))
    os.close(announce)
    try:
        signals.await_readable(ready)
        if os.read(ready, 1):
            return 0
    except BaseException:
        # It may have forked (`restarting.keep`). The other is right before it has a session.
        for end in (os.killpg, os.kill):
            with suppress(ProcessLookupError):
                end(child, signals.signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(ready)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code
