"""Points of named views: VIEW is one as it is now, VIEW@SNAPSHOT as it was at a snapshot."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from overlaykit.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from overlaykit.views.named import NamedView
    from overlaykit.views.registry import RunningView


class UpperElsewhere(Error):
    message = "{0}: its changes are in {1}: only a view without --upper has snapshots"


class WritesNothing(Error):
    message = "{0}: the view is read-only: nothing can be written in it"


class OfMachine(Error):
    message = "{0}: a machine, which writes to a disk of its own: it has no snapshots"


class LinksOfKernel(Error):
    message = (
        "{0}: it holds hard links of layers that were changed, and the kernel's overlayfs shows only some of their "
        "names in a layer: only a view without --driver kernel can be frozen then"
    )


def parted(text: str) -> tuple[str, str | None]:
    """The view's name and the snapshot of VIEW[@SNAPSHOT]; None without one."""
    view, at, snapshot = text.partition("@")
    return view, snapshot if at else None


def opened(name: str) -> tuple[NamedView, Any]:
    """A view whose changes overlaykit keeps, and its options of `run`.

    Raises: NoSuchView, UpperElsewhere, WritesNothing, OfMachine.
    """
    from overlaykit.cli import run
    from overlaykit.views.named import NamedView

    view = NamedView(name)
    args, _ = run.parse(list(view.definition().arguments))
    if args.vm:
        raise OfMachine(name)
    if args.read_only:
        raise WritesNothing(name)
    if args.upper is not None:
        raise UpperElsewhere(name, args.upper)
    return view, args


def layers_of(args: Any) -> tuple[str, ...]:
    """The layers that a view was run with, as they were named."""
    return tuple(args.layers or ("host",))


def refuse_links(view: NamedView, args: Any) -> None:
    """Refuse to freeze what the view's own driver cannot show as a layer. Raises: LinksOfKernel."""
    from overlaykit.views import drivers, snapshots

    if drivers.chosen(args.driver) == drivers.KERNEL and snapshots.has_links(view):
        raise LinksOfKernel(view.name)


def running(view: NamedView) -> RunningView | None:
    """What shows a view now; None: it is stopped."""
    from overlaykit.views.registry import NotRunning, Registry

    with contextlib.suppress(NotRunning):
        found = Registry().find(view.name)
        if view.kept.is_same(found.about.kept):
            return found
    return None


@contextlib.contextmanager
def stopped(view: NamedView) -> Iterator[None]:
    """Keep a view that is stopped from starting. Raises: ViewRuns, NoSuchView, OSError."""
    from overlaykit.views import snapshots

    lock = view.lock()
    try:
        snapshots.settle(view, locked=True)
        yield
    finally:
        os.close(lock)
