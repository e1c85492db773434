"""Freeze the upper of a running view or mount: it becomes a layer, and a new, empty upper takes its place.

Its daemon does it, at once and without copying (`overlay.freezing`). Programs go on, with what they have open.
"""

from __future__ import annotations

import os

from overlaykit.errors import Error
from overlaykit.views.drivers import FUSE
from overlaykit.views.flushing import flush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.fuse.control import Stacked
    from overlaykit.views.registry import RunningView

_WITHIN_SECONDS: Final = 30.0


class KernelServes(Error):
    message = (
        "{0}: the kernel's driver cannot change the layers of a mount: stop it first, or run it with "
        "'--driver fuse'"
    )


class NothingToFreeze(Error):
    message = "{0}: it is read-only: there is no upper to freeze"


class NotFrozen(Error):
    message = "{0}: its upper cannot be frozen: {1}"


def freeze(running: RunningView, frozen: str) -> Stacked:
    """Freeze the upper. `frozen`: the path of a directory on its file system, to which it goes as `upper`.

    Returns: the new stack. Raises: Error, OSError, with nothing changed.
    """
    from overlaykit import attributes
    from overlaykit.fuse import control
    from overlaykit.overlay import freezing

    about = running.about
    if about.driver != FUSE:
        raise KernelServes(about.name)
    stacked = control.ask(
        running.control, control.Stack(), control.Stacked, seconds=_WITHIN_SECONDS
    )
    if stacked.upper is None or stacked.work is None:
        raise NothingToFreeze(about.name)
    # A view may have been renamed since it was started.
    upper, work = about.changes or stacked.upper, stacked.work
    if os.path.dirname(work) == os.path.dirname(stacked.upper):
        work = os.path.join(os.path.dirname(upper), os.path.basename(work))
    flush(about)
    places = freezing.open_places(upper, work, frozen)
    try:
        if about.upper is not None:  # what is kept is to be whole after a crash
            attributes.sync_file_system(places.above_upper)
        with control.Connection(running.control, _WITHIN_SECONDS) as connection:
            return connection.ask(
                control.Freeze(frozen, places.upper, places.work),
                control.Stacked,
                (places.above_upper, places.above_work, places.frozen),
            )
    except OSError as error:
        raise NotFrozen(about.name, error.strerror) from error
    finally:
        freezing.close_places(places)
