"""The root file system of a view: its layers and its upper, merged by a daemon of its own."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from typing import TYPE_CHECKING

from overlaykit import namespace
from overlaykit.errors import Error
from overlaykit.fuse import daemon, directories
from overlaykit.fuse.spec import LayerSpec, MountFlags, MountOptions, MountSpec
from overlaykit.layers import Store, resolve
from overlaykit.views import places, server, upper
from overlaykit.views.registry import Registry
from overlaykit.views.serving import serve

if TYPE_CHECKING:
    from overlaykit.layers import Hold
    from overlaykit.views.spec import ViewSpec


class MountsNotIsolated(Error):
    message = (
        "a view needs mounts of its own, which this root may not have: run it outside of a "
        "chroot, with CAP_SYS_ADMIN"
    )


class RootFs:
    """A mounted root file system with its registry entry. `close` unmounts it.

    Attributes: `entry`; `daemon`, whose `mount` is the root's descriptor; `upper`, the path of the directory that keeps
    changes (None: they are dropped or refused); `made_upper`, whether that is new.
    """

    def __init__(self, spec: ViewSpec, store: Store | None) -> None:
        """Mount. Raises: Error, OSError. Ensures: after an error nothing is left behind."""
        self.upper: str | None = None
        self.made_upper = False
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as undo_upper:
            self.daemon = _start_daemon()
            undo.callback(self.daemon.abandon)
            registry = Registry()
            undo.callback(registry.remove_if_empty)
            self.entry = undo.enter_context(contextlib.closing(registry.enter(spec.name)))
            changes = self._prepare_upper(spec, undo_upper)
            # Called after the scratch is made: without the entry, which names it, the scratch would stay.
            self.daemon.set_cleanup(self.entry.cleanup)
            hidden = [changes.path, changes.work] if changes is not None else []
            hidden += places.hidden()
            store = store or Store()
            layers = [resolve(text, store, hidden=hidden) for text in spec.layers]
            holds = [undo.enter_context(layer.hold()) for layer in layers]
            lowers = [
                layer.path if layer.recursive else self.daemon.hand_over(layer.path, hold.fileno())
                for layer, hold in zip(layers, holds, strict=True)
            ]
            mount = MountSpec(
                source=self.entry.name,
                layers=tuple(
                    LayerSpec(path=path, recursive=layer.recursive, masks=layer.masks)
                    for path, layer in zip(lowers, layers, strict=True)
                ),
                upper=None if changes is None else _hand_over(self.daemon, changes.path, holds[0]),
                work=None if changes is None else _hand_over(self.daemon, changes.work),
                stage=self.entry.stage,
                options=MountOptions(volatile=self.upper is None),
                # A view has a /dev of its own: a device node in a layer must not open one of the machine's.
                flags=MountFlags(nodev=True),
                squash_unmapped=not namespace.is_privileged(),
                cleanup=self.entry.cleanup,
                log_path=places.log(),
            )
            try:
                serve(self.daemon, mount, self.entry, keep=[hold.fileno() for hold in holds])
            except daemon.NamespacesRefused as refused:
                raise _explain_refusal(refused) from None
            undo.callback(self._end_daemon)
            self._undo = undo.pop_all()
            undo_upper.pop_all()

    def close(self) -> None:
        """Unmount, and wait until the daemon has ended; remove the entry. Repeatable."""
        self._undo.close()

    def _prepare_upper(self, spec: ViewSpec, undo: contextlib.ExitStack) -> upper.Upper | None:
        if spec.read_only:
            return None
        if spec.upper is None:
            return upper.prepare_scratch(self.entry)
        kept = upper.prepare_kept(spec.upper, undo)
        self.upper, self.made_upper = kept.path, kept.made
        return kept

    def _end_daemon(self) -> None:
        self.daemon.close_mount()
        self.daemon.process.wait()
        self.daemon.process.close()


def _start_daemon() -> daemon.Daemon:
    """Start a daemon in a mount namespace of its own, and in a user namespace unless this process is a full root."""
    privileged = namespace.is_privileged()
    warm = server.warm_daemon(server.MOUNTS if privileged else server.USER)
    prepare = (
        namespace.isolate_mounts
        if privileged
        else functools.partial(namespace.enter, namespace.available())
    )
    return daemon.Daemon(prepare=prepare, warm=warm)


def _explain_refusal(refused: OSError) -> Exception:
    """The error for namespaces that the daemon could not enter."""
    if namespace.is_privileged():
        return MountsNotIsolated()
    return namespace.diagnose() or refused


def _hand_over(process: daemon.Daemon, path: str, lower: Hold | None = None) -> str:
    """Open a directory and send it to the daemon. Returns: the path that stands for it.

    A new upper gets the mode of the `lower` that it covers, because it is the view's root.
    """
    fd = directories.open_directory(path)
    try:
        if lower is not None and not os.listdir(f"/proc/self/fd/{fd}"):
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(os.fstat(lower.fileno()).st_mode))
        return process.hand_over(path, fd)
    finally:
        os.close(fd)
