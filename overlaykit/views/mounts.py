"""A mount alone, attached to a directory: what `mount -t overlay` does, by our own daemon."""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, Final

from overlaykit import signals
from overlaykit.fuse import daemon
from overlaykit.fuse import mount as fuse_mount
from overlaykit.fuse.spec import LayerSpec, MountSpec
from overlaykit.views import places
from overlaykit.views.registry import About, Registry, now

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlaykit.views.options import Stack

_PATIENCE: Final = 3000  # milliseconds


def mount(stack: Stack, target: str, *, name: str | None = None) -> None:
    """Mount, and return once the mount answers; a daemon of its own serves it until it is unmounted.

    Raises Error for what the user can mend, OSError for the rest; nothing is left behind.
    """
    target = os.path.abspath(target)
    fuse_mount.check_mountpoint(target)
    target = os.path.realpath(target)
    with contextlib.ExitStack() as undo:
        with signals.held():
            _mount(stack, target, name)
            undo.callback(umount, target)
            if signals.will_end():
                undo.close()
        undo.pop_all()  # no signal has come meanwhile


def _mount(stack: Stack, target: str, name: str | None) -> None:
    with contextlib.ExitStack() as undo:
        registry = Registry()
        undo.callback(registry.leave)
        entry = undo.enter_context(contextlib.closing(registry.enter(name)))
        layers = tuple(map(os.path.abspath, stack.lowerdir))
        upper, work = (path and os.path.abspath(path) for path in (stack.upperdir, stack.workdir))
        spec = MountSpec(
            source=stack.source,
            layers=tuple(LayerSpec(path=path) for path in layers),
            upper=upper,
            work=work,
            options=stack.options,
            flags=stack.flags,
            target=target,
            remove=entry.remains,
            log_path=places.log(),
        )
        started = daemon.Daemon()
        with entry.listen() as listener:
            started.serve(spec, listener, keep=[entry.lock])
        about = About(
            name=entry.name,
            pid=started.process.pid,
            daemon=started.process.pid,
            started=now(),
            layers=layers,
            upper=upper,
            target=target,
        )
        try:
            entry.publish(about)
        except BaseException:
            fuse_mount.detach(target)
            started.process.wait()
            raise
        started.process.returncode = 0  # it outlives us: not ours to reap


def umount(target: str, *, on_delay: Callable[[], None] = lambda: None) -> None:
    """Unmount, and return once its daemon has ended: all that was written is in the upper.

    `on_delay` is called if that takes its time: another mount namespace has the mount too. Raises Error: NotMounted,
    Busy.
    """
    path = os.path.realpath(target)
    registry = Registry()
    running = [one for one in registry.running() if one.about.target == path]
    fuse_mount.detach(path)
    for one in running:
        if not _ends_soon(one.about.daemon):
            on_delay()
        registry.await_end(one)
    registry.leave()


def _ends_soon(pid: int) -> bool:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        return bool(poll.poll(_PATIENCE))
    finally:
        os.close(process)
