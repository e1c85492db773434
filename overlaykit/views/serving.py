"""Start to serve a mount: its daemon listens on the socket of its registry entry."""

from __future__ import annotations

from overlaykit.errors import Error
from overlaykit.fuse import daemon

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlaykit.fuse.spec import MountSpec
    from overlaykit.views.entry import Entry


class UpperTaken(Error):
    message = "upper {0} is in use by {1}: {2}, or choose another upper"


def serve(
    process: daemon.Daemon, spec: MountSpec, entry: Entry, *, keep: Iterable[int] = ()
) -> None:
    """Mount what `spec` says, and return once the mount answers.

    The daemon keeps the lock of the entry and the descriptors `keep`. Raises: Error, OSError.
    """
    with entry.listen() as listener:
        try:
            process.serve(spec, listener, keep=[entry.lock, *keep])
        except daemon.UpperLocked as held:
            raise _upper_taken(spec.upper or "", held.pid) from held


def _upper_taken(upper: str, daemon_pid: int) -> UpperTaken:
    """The error that names the view or mount of this daemon (0: unknown), and how to end it."""
    from overlaykit.fuse import mountpoints
    from overlaykit.views.registry import Registry

    views = (view for view in Registry().running() if view.about.daemon == daemon_pid)
    view = next(views, None)
    if view is None:
        holder = f"process {daemon_pid}" if daemon_pid else "another view or mount"
        return UpperTaken(upper, holder, "end that one first")
    name = view.about.name
    if view.about.target is None:
        return UpperTaken(upper, f"view {name} (process {view.about.pid})", "end that one first")
    shown = mountpoints.of_device(view.about.device)
    if shown:
        target = shown[0].mountpoint
        return UpperTaken(upper, f"the mount at {target}", f"'overlaykit umount {target}' first")
    return UpperTaken(
        upper,
        f"mount {name}, which is not mounted here any more but held by {view.describe_holders()}",
        f"end these, or the mount with 'overlaykit umount --force {name}'",
    )
