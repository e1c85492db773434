"""Who uses an upper that is locked."""

from __future__ import annotations

from overlaykit.errors import Error


class UpperTaken(Error):
    message = "upper {0} is in use by {1}: {2}, or choose another upper"


def upper_taken(upper: str, daemon_pid: int = 0) -> UpperTaken:
    """The error that names the view or mount that uses an upper, and how to end it. `daemon_pid`: 0 if unknown."""
    from overlaykit.fuse import mountpoints
    from overlaykit.views.registry import Registry

    running = Registry().running()
    views = [view for view in running if daemon_pid in view.about.daemons]
    views += [view for view in running if view.about.upper == upper]
    if not views:
        holder = f"process {daemon_pid}" if daemon_pid else "another view or mount"
        return UpperTaken(upper, holder, "end that one first")
    view = views[0]
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
