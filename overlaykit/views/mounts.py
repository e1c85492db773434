"""A mount alone, attached to a directory: what `mount -t overlay` does, by our own daemon."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overlaykit import signals
from overlaykit.fuse import daemon, directories, mountpoints
from overlaykit.fuse.spec import LayerSpec, MountSpec
from overlaykit.views import places, unmounting
from overlaykit.views.registry import About, Registry, Running, namespace, now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overlaykit.errors import Error
    from overlaykit.views.options import Stack


def mount(
    stack: Stack,
    target: str,
    *,
    name: str | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> None:
    """Mount, and return once the mount answers; a daemon of its own serves it until it is unmounted.

    `warn` is called with what the user may not expect, a line each. Raises Error for what the user can mend, OSError
    for the rest; nothing is left behind.
    """
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as closing:
        place = mountpoints.open_target(target)
        closing.callback(os.close, place)
        _await_disks(stack)
        with signals.held():
            mounted = _mount(stack, place, name, warn)
            undo.callback(unmounting.discard, mounted)
            if signals.will_end():
                undo.close()
        undo.pop_all()  # no signal has come meanwhile


def _await_disks(stack: Stack) -> None:
    """Walk to each directory while signals arrive: a disk may not answer. What is wrong with one is said later."""
    for path in (*stack.lowerdir, *filter(None, (stack.upperdir, stack.workdir))):
        with contextlib.suppress(OSError):
            os.close(directories.open_directory(path))


def _mount(stack: Stack, place: int, name: str | None, warn: Callable[[str], None]) -> Running:
    """Mount on the directory `place`."""
    with contextlib.ExitStack() as undo:
        registry = Registry()
        undo.callback(registry.leave)
        entry = undo.enter_context(contextlib.closing(registry.enter(name)))
        started = daemon.Daemon()
        with contextlib.ExitStack() as abandoned:
            abandoned.callback(started.abandon)
            seen = directories.MountTable()
            lowers = [
                _hand_over(path, started, seen, directories.LayerUnusable)
                for path in stack.lowerdir
            ]
            upper, work = (
                None if path is None else _hand_over(path, started, seen, unusable)
                for path, unusable in (
                    (stack.upperdir, directories.UpperUnusable),
                    (stack.workdir, directories.WorkUnusable),
                )
            )
            _warn(lowers, upper, place, warn)
            target = started.hand_over(directories.real_path(place), place)
            abandoned.pop_all()
        spec = MountSpec(
            source=stack.source,
            layers=tuple(LayerSpec(path=lower.path) for lower in lowers),
            upper=None if upper is None else upper.path,
            work=None if work is None else work.path,
            options=stack.options,
            flags=stack.flags,
            target=target,
            cleanup_paths=entry.remains,
            log_path=places.log(),
        )
        with entry.listen() as listener:
            try:
                started.serve(spec, listener, keep=[entry.lock])
            except daemon.UpperLocked as held:
                raise unmounting.upper_held(spec.upper or "", held.pid) from held
        about = About(
            name=entry.name,
            pid=started.process.pid,
            daemon=started.process.pid,
            started=now(),
            layers=tuple(lower.path for lower in lowers),
            device=started.device,
            upper=None if upper is None else upper.path,
            target=target,
            namespace=namespace(),
        )
        try:
            for note in started.notes:
                warn(note)
            entry.publish(about)
        except BaseException:
            started.end()
            raise
        started.process.returncode = 0  # it outlives us: not ours to reap
        return Running(about, entry.control)


@dataclass(frozen=True, slots=True)
class _HandedOver:
    """A directory that the daemon has: the path that stands for it, and what tells it from others."""

    path: str
    stat: os.stat_result
    place: directories.Subtree | None


def _hand_over(
    path: str, started: daemon.Daemon, seen: directories.MountTable, unusable: type[Error]
) -> _HandedOver:
    try:
        fd = directories.open_directory(path)
    except OSError as error:
        raise unusable(directories.absolute(path), error.strerror) from error
    try:
        return _HandedOver(started.hand_over(path, fd), os.fstat(fd), seen.find(fd))
    finally:
        os.close(fd)


def _warn(
    lowers: Sequence[_HandedOver],
    upper: _HandedOver | None,
    place: int,
    warn: Callable[[str], None],
) -> None:
    """Tell what is not seen in the mount, or behind it."""
    for lower in lowers:
        if upper and upper.place and lower.place and lower.place.contains(upper.place):
            warn(f"upper {upper.path}: lies inside the lower {lower.path}, which does not show it")
    target = directories.real_path(place)
    on = os.fstat(place)
    if mountpoints.find(target) is not None:
        warn(
            f"{target}: an overlaykit mount is there already: it is hidden until this one is unmounted"
        )
    elif not any(os.path.samestat(on, one.stat) for one in [*lowers, *filter(None, [upper])]):
        _warn_of_hidden(target, place, warn)


def _warn_of_hidden(target: str, place: int, warn: Callable[[str], None]) -> None:
    with contextlib.suppress(OSError), os.scandir(f"/proc/self/fd/{place}") as found:
        if next(found, None) is not None:
            warn(f"{target}: not empty: what it holds is hidden until this is unmounted")
