"""Views in every state: those that run, and named ones that are stopped."""

from __future__ import annotations

from overlaykit.record import Record
from overlaykit.scope import suppress
from overlaykit.views import named
from overlaykit.views.entry import About
from overlaykit.views.named import Definition, Ended, NamedView, NoSuchView
from overlaykit.views.registry import Registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal


class Listed(Record, kw_only=True):
    """A view or a mount. `about`: what runs; `definition`, `ended`, `path`: of a named view."""

    name: str
    state: Literal["created", "running", "restarting", "stopped"]
    about: About | None = None
    definition: Definition | None = None
    ended: Ended | None = None
    path: str | None = None

    @property
    def labels(self) -> dict[str, str]:
        """Those of the running view, or of its next start."""
        if self.about is not None:
            return self.about.labels
        return {} if self.definition is None else self.definition.labels


def running() -> list[Listed]:
    """Those that run, oldest first."""
    return [_running(one.about) for one in Registry().running()]


def everything() -> list[Listed]:
    """Those that run, oldest first, then the others by name."""
    found = running()
    names = {one.name for one in found}
    running_ones = [one.about.kept for one in found if one.about is not None]
    for view in named.all_views():
        # One that was renamed meanwhile is listed once.
        if view.name not in names and not any(view.kept.is_same(one) for one in running_ones):
            with suppress(NoSuchView):
                found.append(_stopped(view))
    return found


def find(name: str) -> Listed:
    """Raises: NoSuchView."""
    for one in everything():
        if one.name == name:
            return one
    raise NoSuchView(name)


def _running(about: About) -> Listed:
    try:
        view = NamedView(about.name)
        definition = view.definition()
    except NoSuchView:
        return Listed(name=about.name, state="running", about=about)
    return Listed(
        name=about.name, state="running", about=about, definition=definition, path=view.path
    )


def _stopped(view: NamedView) -> Listed:
    stopped: Literal["restarting", "stopped"] = "restarting" if view.is_restarting() else "stopped"
    return Listed(
        name=view.name,
        state=stopped if view.was_started() else "created",
        definition=view.definition(),
        ended=view.ended(),
        path=view.path,
    )
