"""The layers of a running view or mount, which its daemon changes under running programs, and of a named view."""

from __future__ import annotations

import os

from overlaykit.errors import Error
from overlaykit.record import Record
from overlaykit.scope import ExitStack, closing, suppress
from overlaykit.views.drivers import FUSE
from overlaykit.views.flushing import flush
from overlaykit.views.freezing import KernelServes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, Literal, TypeAlias

    from overlaykit.fuse.control import Stacked
    from overlaykit.layers import Hold, Layer
    from overlaykit.views.registry import RunningView

    Action: TypeAlias = Literal["push", "pop", "replace"]

_WITHIN_SECONDS: Final = 60.0
_MOUNTPOINTS: Final = "mountpoints"
_MOST_PUSHED: Final = 4


class HostStays(Error):
    message = (
        "host: it comes with mounts below it, which a running view cannot get: push a directory"
    )


class LastLayer(Error):
    message = "{0}: it has one layer left: 'replace' gives it another one"


class TooManyLayers(Error):
    message = "{0} layers at once: at most {1} can be pushed: push the others after that"


class LayerWritten(Error):
    message = "layer {0}: it lies in the view's upper, or holds that: name another directory"


class NotChanged(Error):
    message = "{0}: its layers cannot be changed while it runs: {1}"


class Shown(Record, kw_only=True):
    """A layer of a view. `frozen`: it is a frozen upper of the view (a snapshot)."""

    path: str
    frozen: bool = False


def shown(running: RunningView) -> list[Shown]:
    """The layers that a running view or mount has, top first. Raises: Error, OSError."""
    if running.about.driver != FUSE:
        return [Shown(path=path) for path in running.about.paths]
    stacked = _stack(running)
    return [
        Shown(path=path, frozen=number < stacked.frozen)
        for number, path in enumerate(stacked.layers)
    ]


def changed(specs: Sequence[str], action: Action, layers: Sequence[Layer], name: str) -> list[str]:
    """The layers of a view, as `-l` names them, after a change. Raises: LastLayer."""
    kept = list(specs) if action == "push" else list(specs[1:])
    result = [*(layer.name for layer in layers), *kept]
    if not result:
        raise LastLayer(name)
    return result


def change(running: RunningView, action: Action, layers: Sequence[Layer]) -> None:
    """Put layers on top of those of a running view, or in place of the topmost one, or take that away.

    Its frozen uppers stay above them. Raises: Error, OSError, with nothing changed.
    """
    from overlaykit.fuse import control

    about = running.about
    if about.driver != FUSE:
        raise KernelServes(about.name)
    if len(layers) > _MOST_PUSHED:
        raise TooManyLayers(len(layers), _MOST_PUSHED)
    stacked = _stack(running)
    for layer in layers:
        if layer.recursive:
            raise HostStays
        _check_apart(layer.path, stacked)
    rest = list(range(stacked.frozen, len(stacked.layers)))
    if action != "push":
        del rest[0]
    if not layers and all(
        os.path.basename(stacked.layers[index]) == _MOUNTPOINTS for index in rest
    ):
        raise LastLayer(about.name)
    flush(about)
    with ExitStack() as closed:
        descriptors: list[int] = []
        alone = True
        for layer in layers:
            hold = closed.enter_context(layer.hold())
            clone = _clone(hold)
            alone = alone and clone >= 0
            if clone >= 0:
                closed.callback(os.close, clone)
            descriptors += [clone if clone >= 0 else hold.fileno(), hold.fileno()]
        request = control.Layers(
            (*range(stacked.frozen), *(-1 for _ in layers), *rest),
            tuple(layer.path for layer in layers),
            alone,
        )
        connection = closed.enter_context(
            closing(control.Connection(running.control, _WITHIN_SECONDS))
        )
        try:
            connection.ask(request, control.Stacked, descriptors)
        except OSError as error:
            raise NotChanged(about.name, error.strerror) from error


def _stack(running: RunningView) -> Stacked:
    from overlaykit.fuse import control

    return control.ask(running.control, control.Stack(), control.Stacked, seconds=_WITHIN_SECONDS)


def _check_apart(path: str, stacked: Stacked) -> None:
    real = os.path.realpath(path)
    for own in filter(None, (stacked.upper, stacked.work)):
        other = os.path.realpath(own)
        if os.path.commonpath((real, other)) in (real, other):
            raise LayerWritten(path)


def _clone(hold: Hold) -> int:
    """A read-only clone of a layer's mount, from its directory down; -1: this process may not make one."""
    from overlaykit import _native

    with suppress(OSError):
        flags = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC | _native.AT_EMPTY_PATH
        clone = _native.open_tree(hold.fileno(), b"", flags)
        try:
            _native.mount_setattr(clone, b"", _native.AT_EMPTY_PATH, _native.MOUNT_ATTR_RDONLY)
        except OSError:
            os.close(clone)
            raise
        return clone
    return -1
