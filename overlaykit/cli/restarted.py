"""The program that is executed when the command of a view with --restart has ended: start the view again, or end.

    python -m overlaykit.cli.restarted TRY PAUSE STARTED STATUS

Descriptor 0 holds the lock in the directory of the view (`restarting.LOCK`). TRY and PAUSE are those of the start that
has ended (`restarting.Try`), STARTED its time on CLOCK_MONOTONIC in nanoseconds, and STATUS that of its supervisor.
"""

from __future__ import annotations

import os
import sys
import time

from overlaykit import signals, standard
from overlaykit.cli import main, output
from overlaykit.namespace.descriptors import poll_readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlaykit.views.named import NamedView


def again(last: tuple[int, int], started: int, status: int) -> int:
    """Start the view again if its policy says so. Returns: the status, if it does not."""
    from overlaykit.cli import start
    from overlaykit.views import named, restarting

    try:
        view = named.restarted_by(restarting.LOCK)
        definition = view.definition()
    except named.NoSuchView:  # it was new, and removed
        return status
    if view.ended() is None:  # it could not be started, or its supervisor was killed
        return status
    ran = (time.monotonic_ns() - started) // 1_000_000
    policy = restarting.parse(definition.restart)
    following = restarting.next_try(policy, restarting.Try(*last), status=status, ran=ran)
    if following is not None and _pause(view, following.pause):
        start.start_again(view, definition, following, restarting.LOCK)
    return status


def _pause(view: NamedView, milliseconds: int) -> bool:
    """Wait. Returns: whether the view may still be started again."""
    from overlaykit.views import logs

    deadline = time.monotonic() + milliseconds / 1000
    changes = logs.watch(view.directory)
    try:
        while view.may_restart():
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            if poll_readable([changes], milliseconds=round(left * 1000) + 1):
                os.read(changes, 1 << 16)
        return False
    finally:
        os.close(changes)


if __name__ == "__main__":
    standard.fill()
    output.replace_streams()
    signals.await_children()
    number, pause, started, status = map(int, sys.argv[1:])
    sys.exit(main.status_of(lambda: again((number, pause), started, status)))
