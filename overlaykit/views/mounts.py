"""A mount alone, attached to a directory: what `mount -t overlay` does, by our own daemon."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from overlaykit import signals
from overlaykit.fuse import daemon
from overlaykit.fuse import mount as fuse_mount
from overlaykit.fuse.spec import LayerSpec, MountSpec
from overlaykit.views import places, unmounting
from overlaykit.views.registry import About, Registry, Running, namespace, now

if TYPE_CHECKING:
    from overlaykit.views.options import Stack


def mount(stack: Stack, target: str, *, name: str | None = None) -> None:
    """Mount, and return once the mount answers; a daemon of its own serves it until it is unmounted.

    Raises Error for what the user can mend, OSError for the rest; nothing is left behind.
    """
    target = os.path.abspath(target)
    fuse_mount.check_mountpoint(target)
    target = os.path.realpath(target)
    with contextlib.ExitStack() as undo:
        with signals.held():
            undo.callback(unmounting.discard, _mount(stack, target, name))
            if signals.will_end():
                undo.close()
        undo.pop_all()  # no signal has come meanwhile


def _mount(stack: Stack, target: str, name: str | None) -> Running:
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
            try:
                started.serve(spec, listener, keep=[entry.lock])
            except daemon.UpperHeld as held:
                raise unmounting.upper_held(spec.upper or "", held.pid) from held
        about = About(
            name=entry.name,
            pid=started.process.pid,
            daemon=started.process.pid,
            started=now(),
            layers=layers,
            device=started.device,
            upper=upper,
            target=target,
            namespace=namespace(),
        )
        try:
            entry.publish(about)
        except BaseException:
            started.end()
            raise
        started.process.returncode = 0  # it outlives us: not ours to reap
        return Running(about, entry.control)
