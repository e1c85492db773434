"""A mount alone, on a directory, as `mount -t overlay` makes one; a daemon of its own serves it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overlaykit import privilege, signals
from overlaykit.fuse import daemon, directories, mountpoints
from overlaykit.fuse.spec import LayerSpec, MountSpec
from overlaykit.views import places, unmounting
from overlaykit.views.entry import About
from overlaykit.views.registry import Registry, RunningView, mount_namespace, now
from overlaykit.views.serving import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overlaykit.errors import Error
    from overlaykit.views.options import ParsedOptions


def mount(
    options: ParsedOptions,
    target: str,
    *,
    name: str | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> None:
    """Mount, and return once the mount answers; its daemon serves it until it is unmounted.

    `warn` gets what a user may not expect, a line each.
    Raises: Error for what the user can mend, OSError for the rest. Ensures: after an error nothing is left behind.
    """
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as closing:
        mountpoint = mountpoints.open_target(target)
        closing.callback(os.close, mountpoint)
        _wait_for_disks(options)
        with signals.held():
            mounted = _mount(options, mountpoint, name, warn)
            undo.callback(unmounting.unmount_by_force, mounted)
            if signals.will_end():
                undo.close()
        undo.pop_all()  # no signal has arrived


def _wait_for_disks(options: ParsedOptions) -> None:
    """Open each directory while signals arrive: a disk may not answer. `_mount` reports errors."""
    for path in (*options.lowerdir, *filter(None, (options.upperdir, options.workdir))):
        with contextlib.suppress(OSError):
            os.close(directories.open_directory(path))


def _mount(
    options: ParsedOptions,
    mountpoint: int,
    name: str | None,
    warn: Callable[[str], None],
) -> RunningView:
    """Mount on the directory open as `mountpoint`."""
    with contextlib.ExitStack() as undo:
        registry = Registry()
        undo.callback(registry.remove_if_empty)
        entry = undo.enter_context(contextlib.closing(registry.enter(name)))
        started = daemon.Daemon()
        with contextlib.ExitStack() as on_error:
            on_error.callback(started.abandon)
            table = directories.MountTable()
            lowers = [
                _hand_over(path, started, table, directories.LayerUnusable)
                for path in options.lowerdir
            ]
            upper, work = (
                None if path is None else _hand_over(path, started, table, unusable)
                for path, unusable in (
                    (options.upperdir, directories.UpperUnusable),
                    (options.workdir, directories.WorkUnusable),
                )
            )
            _warn_of_hidden(lowers, upper, mountpoint, warn)
            target = started.hand_over(directories.real_path(mountpoint), mountpoint)
            on_error.pop_all()
        spec = MountSpec(
            source=options.source,
            layers=tuple(LayerSpec(path=lower.path, live=options.live) for lower in lowers),
            upper=None if upper is None else upper.path,
            work=None if work is None else work.path,
            options=options.options,
            flags=options.flags,
            target=target,
            restart=options.restart,
            cleanup=entry.cleanup,
            log_path=places.log(),
        )
        serve(started, spec, entry)
        about = About(
            name=entry.name,
            pid=started.process.pid,
            daemon=started.process.pid,
            started=now(),
            layers=tuple(lower.path for lower in lowers),
            device=started.device,
            upper=None if upper is None else upper.path,
            paths=tuple(lower.path for lower in lowers),
            changes=None if upper is None else upper.path,
            target=target,
            namespace=mount_namespace(),
        )
        try:
            for note in started.notes:
                warn(note)
            if options.options.metacopy and (options.options.userxattr or not _may_write_trusted()):
                warn(
                    "mount option metacopy=on: copy-up copies the data too, as only root's marks tell"
                )
            entry.publish(about)
        except BaseException:
            started.end()
            started.process.close()
            raise
        started.process.close()  # it outlives this process
        return RunningView(about, entry.control)


def _may_write_trusted() -> bool:
    """Whether the attributes `trusted.*` can be written (xattr(7))."""
    return privilege.CAP_SYS_ADMIN in privilege.capabilities() and privilege.maps_all_ids()


@dataclass(frozen=True, slots=True)
class _HandedOver:
    """A directory that the daemon has. `path` stands for it in the spec; `subtree` is None outside of the namespace."""

    path: str
    stat: os.stat_result
    subtree: directories.Subtree | None


def _hand_over(
    path: str, started: daemon.Daemon, table: directories.MountTable, unusable: type[Error]
) -> _HandedOver:
    try:
        fd = directories.open_directory(path)
    except OSError as error:
        raise unusable(directories.absolute(path), error.strerror) from error
    try:
        return _HandedOver(started.hand_over(path, fd), os.fstat(fd), table.find(fd))
    finally:
        os.close(fd)


def _warn_of_hidden(
    lowers: Sequence[_HandedOver],
    upper: _HandedOver | None,
    mountpoint: int,
    warn: Callable[[str], None],
) -> None:
    """Name what the mount does not show, and what it covers."""
    for lower in lowers:
        if upper and upper.subtree and lower.subtree and lower.subtree.contains(upper.subtree):
            warn(f"upper {upper.path}: lies inside the lower {lower.path}, which does not show it")
    target = directories.real_path(mountpoint)
    covered = os.fstat(mountpoint)
    if mountpoints.find(target) is not None:
        warn(
            f"{target}: an overlaykit mount is there already: it is hidden until this one is unmounted"
        )
    elif not any(
        os.path.samestat(covered, shown.stat) for shown in [*lowers, *filter(None, [upper])]
    ):
        with contextlib.suppress(OSError), os.scandir(f"/proc/self/fd/{mountpoint}") as found:
            if next(found, None) is not None:
                warn(f"{target}: not empty: what it holds is hidden until this is unmounted")
