"""What the daemons of running views and mounts have had to do."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from overlaykit.fuse import control
from overlaykit.fuse.control import Measured

if TYPE_CHECKING:
    from overlaykit.views.registry import RunningView

_ANSWER_SECONDS: Final = 5.0


def requests(running: RunningView) -> Measured | None:
    """The requests that its daemon has had; None if it has no daemon, or one that does not answer."""
    if not running.about.daemon:
        return None
    with suppress(OSError):  # it has ended, or is stopped
        reply = control.ask(running.control, control.Measure(), seconds=_ANSWER_SECONDS)
        assert isinstance(reply, Measured)
        return reply
    return None
