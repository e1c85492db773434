"""What is kept of a command beyond its end, and beyond the terminal of its caller."""

from __future__ import annotations

from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from overlaykit.namespace.spec import Log


class Lasting(Record, kw_only=True):
    """Descriptors for the supervisor of a named or a detached view."""

    status: tuple[int, str] | None = None
    """The directory and the name of a file for the exit status."""
    hold: tuple[int, ...] = ()
    """Locks."""
    remove: tuple[tuple[int, str], ...] = ()
    """Trees that are removed at the end: a descriptor of the directory, and the name in it."""
    announce: int | None = None
    """A pipe that gets a byte once the command runs."""
    log: Log | None = None
    """That of a detached command."""
    input: int | None = None
    """A write end of the pipe that is the input of a detached command."""
    new: bool = False
    """Whether the view is removed if the command cannot be started."""
    redirected: Mapping[int, int] = {}
    """The standard streams of a detached command."""
