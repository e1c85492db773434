"""What is kept of a command beyond its end, and beyond the terminal of its caller."""

from __future__ import annotations

from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from overlaykit.namespace.spec import Log
    from overlaykit.views.kept import Kept


class Lasting(Record, kw_only=True):
    """Descriptors for the supervisor of a named or a detached view."""

    status: tuple[int, str] | None = None
    """The directory and the name of a file for the exit status."""
    hold: tuple[int, ...] = ()
    """Locks."""
    remove: int | None = None
    """A directory that is removed at the end, whatever its name is by then."""
    announce: int | None = None
    """A pipe that gets a byte once the command runs."""
    log: Log | None = None
    """That of a detached command."""
    input: int | None = None
    """A write end of the pipe that is the input of a detached command."""
    new: int | None = None
    """When the view was made (`named.Definition.created`), if it is removed where the command cannot be started."""
    kept: Kept | None = None
    """The directory of the view."""
    redirected: Mapping[int, int] = {}
    """The standard streams of a detached command."""
