"""What the daemons of running views and mounts have had to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from overlaykit.fuse import control
from overlaykit.fuse.control import Measured
from overlaykit.views.registry import DaemonSilent

if TYPE_CHECKING:
    from overlaykit.views.registry import RunningView

_ANSWER_SECONDS: Final = 5.0


def requests(running: RunningView) -> Measured | None:
    """The requests that its daemon has had; None if it has no daemon, or one that has ended. Raises: DaemonSilent."""
    daemon = running.about.daemon
    if not daemon:
        return None
    try:
        reply = control.ask(running.control, control.Measure(), seconds=_ANSWER_SECONDS)
    except (TimeoutError, BlockingIOError):  # EAGAIN: too many clients wait already
        raise DaemonSilent(running.about.name, daemon, int(_ANSWER_SECONDS)) from None
    except OSError:
        return None
    assert isinstance(reply, Measured)
    return reply
