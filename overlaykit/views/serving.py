"""Start to serve a mount: its daemon listens on the socket of its registry entry."""

from __future__ import annotations

from overlaykit.fuse import daemon

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlaykit.fuse.spec import MountSpec
    from overlaykit.views.entry import Entry


def serve(
    process: daemon.Daemon, spec: MountSpec, entry: Entry, *, keep: Iterable[int] = ()
) -> None:
    """Mount what `spec` says, and return once the mount answers.

    The daemon keeps the locks of the entry and the descriptors `keep`. Raises: Error, OSError.
    """
    with entry.listen() as listener:
        try:
            process.serve(spec, listener, keep=[*entry.locks, *keep])
        except daemon.UpperLocked as held:
            from overlaykit.views.locks import upper_taken

            raise upper_taken(spec.upper or "", held.pid) from held
