"""What a command compares: the upper and the layers of a view or a mount, of an upper's directory, or a layer."""

from __future__ import annotations

import os

from overlaykit.cli.output import print_error
from overlaykit.client import Client, NothingWritten, Stack
from overlaykit.errors import Error
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager, ExitStack
    from typing import Final

    from overlaykit.views.named import NamedView
    from overlaykit.views.registry import RunningView

_UPPER: Final = "upper"
TRIED: Final = "overlaykit.try"
"""The label of a view of `try`: an object with the lists `on` and `ignore`, as `Stack.tried` and `Stack.ignored`."""


class NothingToCompare(Error):
    message = (
        "{0}: no view, mount, directory or layer of that name: 'overlaykit ps -a' lists views, 'overlaykit layer ls' "
        "layers"
    )


class Disks:
    """How disks are copied. `until`: when the copies are removed; `contents`: whether files have theirs."""

    def __init__(self, until: ExitStack, *, contents: bool = True) -> None:
        self._until = until
        self._contents = contents

    def stack(
        self, name: str, layers: tuple[str, ...], disk: AbstractContextManager[int], shown: str
    ) -> Stack:
        """What a machine has written, and its layers. Raises: Error, OSError."""
        from overlaykit import signals
        from overlaykit.views import machine_disk

        self._until.enter_context(signals.unwound())
        with disk as opened:
            copy = self._until.enter_context(
                machine_disk.copied(opened, shown, contents=self._contents)
            )
        if copy.left_out:
            print_error(f"{name}: {copy.left_out} devices are left out, which only root can make")
        return Stack(name=name, upper=copy.path, layers=layers, disk=shown)


def find(name: str, layers: Sequence[str] = (), *, disks: Disks, written: bool = True) -> Stack:
    """What a name or a path stands for: a view, a mount, an upper's directory, or the disk of a machine.

    VIEW@SNAPSHOT is the view as it was then.
    `layers`: those below the directory, as of `run`. `written`: it must have an upper.
    Raises: NothingToCompare, NothingWritten, Error of a layer or a disk.
    """
    found = _find(name, layers, disks)
    if written and found.upper is None and "@" not in name:
        raise NothingWritten(name)
    return found


def _find(name: str, layers: Sequence[str], disks: Disks) -> Stack:
    from overlaykit.views.registry import NotRunning, Registry, is_name

    registry = Registry()
    with suppress(NotRunning):
        return _running(name, registry.find(name), disks)
    view, at, point = name.partition("@")
    if at and is_name(view) and (named := _named(view)):
        return _at(named, point, disks)
    if is_name(name) and (named := _named(name)):
        return _stopped(named, disks)
    if os.path.isfile(name):
        from overlaykit.views import machine_disk

        below = _resolved(layers or ("host",), os.getcwd())
        found = disks.stack(name, below, machine_disk.of_file(name), os.path.realpath(name))
        return found.replace(assumed=not layers)
    if not os.path.isdir(name):
        raise NothingToCompare(name)
    path = os.path.realpath(name)
    for one in registry.running():
        if one.about.changes is not None and os.path.realpath(one.about.changes) == path:
            return _running(name, one, disks)
    if not layers and os.path.basename(path) == _UPPER:
        above = os.path.dirname(path)
        if (named := _named(os.path.basename(above))) and os.path.samefile(named.path, above):
            return _stopped(named, disks)
    below = _resolved(layers or ("host",), os.getcwd())
    return Stack(name=name, upper=path, layers=below, assumed=not layers)


def _named(name: str) -> NamedView | None:
    from overlaykit.views.named import NamedView, NoSuchView
    from overlaykit.views.places import NoHome

    with suppress(NoSuchView, NoHome):
        return NamedView(name)
    return None


def find_side(name: str, layers: Sequence[str] = (), *, disks: Disks) -> Stack:
    """As `find`; without `layers` a directory is a layer alone, and a name may be that of a layer of the store."""
    if not layers and os.path.isdir(name) and not os.path.ismount(name):
        return Stack(name=name, upper=None, layers=(os.path.realpath(name),))
    try:
        return find(name, layers, disks=disks)
    except NothingToCompare:
        if "/" in name:
            raise
        from overlaykit.layers import resolve

        return Stack(name=name, upper=None, layers=(resolve(name).path,))


def sides(text: str, layers: Sequence[str] = (), *, disks: Disks) -> tuple[Stack, Stack] | None:
    """Both sides of `A..B`; None if it names one thing. Raises: NothingToCompare, Error."""
    if os.path.exists(text):
        return None
    ways = [(old, _of_same(old, new)) for old, new in _ways(text)]
    if not ways:
        return None
    for index, (old, new) in enumerate(ways):
        try:
            return find_side(old, layers, disks=disks), find_side(new, layers, disks=disks)
        except Error:
            if index == len(ways) - 1:
                raise
    return None


def _ways(text: str) -> Iterator[tuple[str, str]]:
    """The ways to part a text at `..`, which may be in a path as well."""
    at = text.find("..", 1)
    while 0 < at < len(text) - 2 or ("@" in text[:at] and 0 < at == len(text) - 2):
        yield text[:at], text[at + 2 :]
        at = text.find("..", at + 1)


def _of_same(old: str, new: str) -> str:
    """The right side of `VIEW@A..B`, where B may be another snapshot of the view; of `VIEW@A..`, the view now."""
    from overlaykit.views import snapshots

    view, at, _ = old.partition("@")
    if not at or "/" in old:
        return new
    if not new:
        return view
    named = _named(view)
    if named is not None:
        with suppress(snapshots.NoSuchSnapshot):
            snapshots.find(named, new)
            return f"{view}@{new}"
    return new


def _running(name: str, found: RunningView, disks: Disks) -> Stack:
    if found.about.machine:
        from overlaykit.views import machine_disk

        disk = machine_disk.of_running(found)
        stack = disks.stack(name, found.about.paths, disk, f"the disk of {found.about.name}")
        return stack.replace(running=found.about)
    with Client.of(found) as client:
        return client.stack().replace(name=name)


def _stopped(view: NamedView, disks: Disks) -> Stack:
    from overlaykit.cli import run

    definition = view.definition()
    args, _ = run.parse_again(definition)
    if args.vm:
        from overlaykit.cli.run_machine import disk_of
        from overlaykit.views import machine_disk

        disk = disk_of(view, args, definition.directory)
        layers = _resolved(args.layers or ("host",), definition.directory)
        if not os.path.lexists(disk):  # it was not started yet
            return Stack(name=view.name, upper=disk, layers=layers, disk=disk)
        return disks.stack(view.name, layers, machine_disk.of_file(disk), disk)
    upper = None
    if not args.read_only:
        upper = view.upper if args.upper is None else os.path.join(definition.directory, args.upper)
    layers = _resolved(args.layers or ("host",), definition.directory)
    frozen: tuple[str, ...] = ()
    if view.has_snapshots and args.upper is None:
        from overlaykit.views import snapshots

        frozen = tuple(one.path for one in snapshots.layers(view, snapshots.chain(view)))
    label = definition.labels.get(TRIED)
    tried = {}
    if label is not None:
        import json

        tried = json.loads(label)
    return Stack(
        name=view.name,
        upper=upper,
        layers=layers,
        frozen=frozen,
        tried=tuple(tried.get("on", ())),
        ignored=tuple(tried.get("ignore", ())),
    )


def _at(view: NamedView, point: str, disks: Disks) -> Stack:
    """A view as it was when a snapshot was made. Raises: NoSuchSnapshot, SnapshotAmbiguous, SnapshotLost."""
    from overlaykit.views import snapshots

    found = snapshots.find(view, point)
    stack = _stopped(view, disks).replace(
        name=f"{view.name}@{point}", point=point, upper=None, frozen=()
    )
    if found is None:
        return stack
    # The snapshot takes the place of the upper: what is compared is only read.
    upper, *below = snapshots.layers(view, snapshots.chain_from(view, found.id))
    return stack.replace(upper=upper.path, frozen=tuple(one.path for one in below))


def _resolved(layers: Sequence[str], directory: str) -> tuple[str, ...]:
    """The directories of layers; relative paths are from `directory`. Raises: Error."""
    from overlaykit.layers import resolve

    return tuple(
        resolve(os.path.join(directory, one.removeprefix("dir:")) if "/" in one else one).path
        for one in layers
    )
