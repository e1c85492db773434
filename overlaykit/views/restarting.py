"""Whether a detached view is started again at the end of its command (`--restart`).

The supervisor of such a view is the child of a process that waits for its end: `_supervisor --after`, which executes
`overlaykit.cli.restarted` then. The supervisor itself could not start a view: it is in the namespaces of one. The
process holds a lock (`NamedView.lock_restarts`) from the first start on, until it starts the view no more.
"""

from __future__ import annotations

import os
import sys
import time

from overlaykit.errors import Error
from overlaykit.namespace.launcher import SUPERVISOR
from overlaykit.record import Record
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.views.named import NamedView

_FIRST_PAUSE: Final = 100
_LONGEST_PAUSE: Final = 60_000
_STABLE: Final = 10_000
"""Milliseconds, as docker pauses: each twice the one before, from the first again after a command that ran so long."""


_TRIES: Final = 20
_BETWEEN_SECONDS: Final = 0.02


class BadPolicy(Error):
    message = "--restart {0}: give no, on-failure, on-failure:N, always or unless-stopped"


class RestartOfWhat(Error):
    message = "--restart {0}: {1}"


class Policy(Record):
    """`kind`: of the option's words; `most`: how often in a row, None: any number of times."""

    kind: str
    most: int | None = None


class Try(Record):
    """A start by itself: the how manieth in a row, after a pause in milliseconds."""

    number: int
    pause: int


FIRST: Final = Try(0, _FIRST_PAUSE)


def parse(text: str) -> Policy:
    """Raises: BadPolicy."""
    kind, colon, number = text.partition(":")
    if kind == "on-failure" and colon and number.isascii() and number.isdecimal():
        return Policy(kind, int(number))
    if colon or kind not in ("no", "on-failure", "always", "unless-stopped"):
        raise BadPolicy(text)
    return Policy(kind)


def next_try(policy: Policy, last: Try, *, status: int, ran: int) -> Try | None:
    """The next start of a view whose command has ended with a status after so many milliseconds; None: none follows."""
    if policy.kind == "no" or (policy.kind == "on-failure" and status == 0):
        return None
    if policy.most is not None and last.number >= policy.most:
        return None
    stable = ran >= _STABLE
    pause = _FIRST_PAUSE if stable or not last.number else min(2 * last.pause, _LONGEST_PAUSE)
    return Try(last.number + 1, pause)


def lock(view: NamedView) -> int:
    """`NamedView.lock`, which another command may hold for a moment, to copy files of the stopped view."""
    from overlaykit.views.named import ViewRuns

    for _ in range(_TRIES):
        with suppress(ViewRuns):
            return view.lock()
        time.sleep(_BETWEEN_SECONDS)
    return view.lock()


LOCK: Final = 0
"""The descriptor of the lock in the program that is executed at the end."""


def keep(one: Try, lock: int) -> None:
    """Return in a child, which starts the view, and closes `lock`. This process waits for its end.

    It has no stream of the caller, and keeps `lock` (`NamedView.lock_restarts`). Requires: no other thread.
    """
    child = os.fork()
    if child == 0:
        return
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(lock, LOCK)
    for standard in (1, 2):
        os.dup2(null, standard)
    numbers = (one.number, one.pause, time.monotonic_ns())
    program = (sys.executable, "-P", "-m", "overlaykit.cli.restarted")
    os.execv(SUPERVISOR, [SUPERVISOR, "--after", str(child), *program, *map(str, numbers)])
