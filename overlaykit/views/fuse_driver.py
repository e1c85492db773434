"""The driver `fuse`: a view's root file system is our own, served by a daemon."""

from __future__ import annotations

import os

from overlaykit import namespace
from overlaykit.errors import Error
from overlaykit.fuse import daemon
from overlaykit.fuse.spec import LayerSpec, MountFlags, MountOptions, MountSpec
from overlaykit.namespace.spec import End
from overlaykit.views import places, server
from overlaykit.views.drivers import FUSE
from overlaykit.views.registry import explain_at
from overlaykit.views.serving import serve
from overlaykit.views.upper import do_not_change, leaves_data, open_new_upper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from overlaykit.fuse.spec import NoOpen
    from overlaykit.layers import Hold, Layer
    from overlaykit.overlay.explanation import Explanation
    from overlaykit.views.entry import Entry
    from overlaykit.views.upper import Limit, Upper


class MountsNotIsolated(Error):
    message = (
        "a view needs mounts of its own, which this root may not have: run it outside of a "
        "chroot, with CAP_SYS_ADMIN"
    )


class FuseRoot:
    """A root file system that a daemon serves. `kernel_driver.KernelRoot` has the same face.

    Attributes:
      daemon: the daemon, which starts at once and loads while the caller prepares the layers.
      mount: the detached mount's descriptor; -1 before `serve` and after `close_mount`.
      paths, changes: as in `entry.About`.
    """

    driver = FUSE

    def __init__(self, userns: str, within: int | None = None) -> None:
        """Start the daemon.

        `userns`: as in `ViewSpec`. `within`: the parent of the view's user namespace (None: the caller's).
        Raises: Error, OSError.
        """
        self.paths: tuple[str, ...] = ()
        self.changes: str | None = None
        self._userns = userns
        self.daemon = _start_daemon(userns, within)
        self._entry: Entry | None = None

    @property
    def mount(self) -> int:
        return self.daemon.mount

    @mount.setter
    def mount(self, descriptor: int) -> None:
        self.daemon.mount = descriptor

    @property
    def device(self) -> int:
        """The mount's st_dev."""
        return self.daemon.device

    @property
    def notes(self) -> tuple[str, ...]:
        """Restrictions that a user may not expect, a line each."""
        return self.daemon.notes

    @property
    def daemon_pid(self) -> int:
        """The daemon's process id; 0 if the root needs none."""
        return self.daemon.process.pid

    @property
    def user_namespace(self) -> int | None:
        """A descriptor for the user namespace that owns the mount; None if that is the caller's."""
        return None if namespace.is_privileged() else self.daemon.process.pidfd

    @property
    def watched(self) -> tuple[int, ...]:
        """Descriptors that are readable once the mount has ended."""
        return (self.daemon.process.pidfd,)

    @property
    def holds(self) -> tuple[int, ...]:
        """The locks that the supervisor has to keep. The daemon keeps the others."""
        assert self._entry is not None
        return (self._entry.view_lock,)

    def clean_up(self, entry: Entry) -> None:
        """Have the daemon remove the entry and its scratch if this process ends before `serve`."""
        self.daemon.set_cleanup(entry.cleanup)

    def serve(
        self,
        entry: Entry,
        layers: Sequence[Layer],
        holds: Sequence[Hold],
        upper: Upper | None,
        *,
        kept: bool,
        limit: Limit | None = None,
        data_plane: bool = True,
        no_open: NoOpen = "auto",
        pinned: tuple[str, ...] = (),
    ) -> None:
        """Mount `layers`, which `holds` have opened, below `upper`.

        `kept`: the upper outlives the view. `limit`: of the upper. `data_plane`, `no_open`: as in
        `ViewSpec`. `pinned`: as in `fuse.spec.MountSpec`.
        Raises: Error, OSError. The daemon has ended then.
        """
        self._entry = entry
        self.paths = tuple(layer.path for layer in layers)
        self.changes = None if upper is None else upper.path
        lowers = [
            layer.path if layer.recursive else self.daemon.hand_over(layer.path, hold.fileno())
            for layer, hold in zip(layers, holds, strict=True)
        ]
        mount = MountSpec(
            source=entry.name,
            layers=tuple(
                LayerSpec(
                    path=path,
                    recursive=layer.recursive,
                    masks=layer.masks,
                    frozen=layer.frozen,
                    index=None if layer.index is None else self._hand_over(layer.index),
                    live=layer.recursive or not (layer.is_stored or no_open == "on"),
                )
                for path, layer in zip(lowers, layers, strict=True)
            ),
            upper=None if upper is None else self._hand_over(upper.path, holds[0]),
            work=None if upper is None else self._hand_over(upper.work),
            stage=entry.stage,
            options=MountOptions(
                volatile=not kept,
                metacopy=leaves_data(layers, kept=kept),
                limit=None if limit is None or limit.project is not None else limit.size,
                by_project=limit is not None and limit.project is not None,
                data_plane=data_plane,
                no_open="off" if no_open == "auto" and not do_not_change(layers) else no_open,
            ),
            # A view has a /dev of its own: a device node in a layer must not open one of the machine's.
            flags=MountFlags(nodev=True),
            squash_unmapped=not namespace.is_privileged(),
            cleanup=entry.cleanup,
            log_path=places.log(),
            pinned=pinned,
        )
        try:
            serve(self.daemon, mount, entry, keep=[hold.fileno() for hold in holds])
        except daemon.NamespacesRefused as refused:
            raise _explain_refusal(refused, self._userns) from None

    def has_ended(self) -> bool:
        """Whether the daemon has ended, and with it the mount."""
        return not self.daemon.process.is_alive()

    def close_mount(self) -> None:
        """Close the mount's descriptor. The mount and the daemon end with the last process that uses it."""
        self.daemon.close_mount()

    def wait(self) -> bool:
        """Wait for the daemon's end: all changes are in the upper. Returns: whether it ended as it should."""
        return self.daemon.process.wait()

    def close(self) -> None:
        """Unmount, and wait until the daemon has ended."""
        self.close_mount()
        self.daemon.process.wait()
        self.daemon.process.close()

    def abandon(self) -> None:
        """End the daemon before the mount is ready."""
        self.daemon.abandon()

    def end(self, _: ExitStack) -> End:
        """What the supervisor does at the end of the view, in place of `close`: the daemon removes all.

        The supervisor waits for the daemon's word that all is in the upper, although that may be dropped: a daemon that
        was killed ends without it.
        """
        return End(written=self.daemon.process.channel.fileno())

    def explain(self, path: str) -> Explanation:
        """Which layer answers for a path. Raises: OSError (ENOENT and the like)."""
        assert self._entry is not None
        entry = self._entry
        return explain_at(entry.control, path, name=entry.name, daemon=self.daemon_pid)

    def _hand_over(self, path: str, lower: Hold | None = None) -> str:
        """Open a directory and send it to the daemon. Returns: the path that stands for it."""
        fd = open_new_upper(path, lower)
        try:
            return self.daemon.hand_over(path, fd)
        finally:
            os.close(fd)


def _start_daemon(userns: str, within: int | None) -> daemon.Daemon:
    """Start a daemon in a mount namespace of its own, and in a user namespace unless this process is a full root."""
    privileged = namespace.is_privileged()
    if privileged:
        if userns not in ("auto", "keep-id", "host"):
            raise namespace.UserNamespaceOfHost(userns)
        warm = server.warm_daemon(server.MOUNTS)
        return daemon.Daemon(prepare=namespace.isolate_mounts, warm=warm)
    mapped = namespace.available() if userns == "auto" else namespace.identities.chosen(userns)
    if within is not None:
        enter_below = namespace.bridge.enter_below
        return daemon.Daemon(prepare=lambda: enter_below(within, single=userns == "single"))

    def prepare() -> None:
        namespace.enter(mapped)

    # The server maps what is available.
    warm = server.warm_daemon(server.USER) if userns == "auto" else None
    return daemon.Daemon(prepare=prepare, warm=warm)


def _explain_refusal(refused: OSError, userns: str) -> Exception:
    """The error for namespaces that the daemon could not enter."""
    if namespace.is_privileged():
        return MountsNotIsolated()
    found = namespace.diagnose()
    if found is None and userns == "subids":
        return namespace.NoSubordinateIds("newuidmap maps none", "mend /etc/subuid and /etc/subgid")
    return found or refused
