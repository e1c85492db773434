"""The root file system of a view: its registry entry, its layers and its upper, merged by a driver."""

from __future__ import annotations

import os

from overlaykit import namespace
from overlaykit.layers import Layer, resolve
from overlaykit.mountinfo import below
from overlaykit.scope import ExitStack, closing
from overlaykit.views import drivers, places, upper
from overlaykit.views.registry import Registry
from overlaykit.views.spec import is_shared
from overlaykit.views.upper import Limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from typing import Final

    from overlaykit.layers import Hold, Store
    from overlaykit.views.fuse_driver import FuseRoot
    from overlaykit.views.kernel_driver import KernelRoot
    from overlaykit.views.networks import Membership
    from overlaykit.views.spec import ViewSpec


class RootFs:
    """A mounted root file system with its registry entry. `close` unmounts it.

    Attributes: `entry`; `root`, the driver's part, whose `mount` is the root's descriptor; `upper`, the path of the
    directory that keeps changes (None: they are dropped or refused); `made_upper`, whether that is new; `network`, the
    view's place in a shared one (None: it is in none).
    """

    def __init__(self, spec: ViewSpec, store: Store | None) -> None:
        """Mount. Raises: Error, OSError. Ensures: after an error nothing is left behind."""
        self.upper: str | None = None
        self.made_upper = False
        self.network: Membership | None = None
        self._within: int | None = None
        driver = drivers.chosen(spec.driver)
        joins = is_shared(spec.network)
        with ExitStack() as undo, ExitStack() as undo_upper:
            fuse = self._start_fuse(spec, undo) if driver == drivers.FUSE and not joins else None
            registry = Registry()
            undo.callback(registry.remove_if_empty)
            self.entry = undo.enter_context(closing(registry.enter(spec.name)))
            if joins:
                self.network = undo.enter_context(self._join(spec, registry))
                self._within = self.network.user_namespace
                fuse = self._start_fuse(spec, undo) if driver == drivers.FUSE else None
            changes = self._prepare_upper(spec, undo_upper)
            limit = self._limit(spec, changes)
            if fuse is not None:
                # Called after the scratch is made: without the entry, which names it, the scratch would stay.
                fuse.clean_up(self.entry)
            hidden = [changes.path, changes.work] if changes is not None else []
            hidden += places.hidden()
            layers = [*spec.frozen, *(resolve(one, store, hidden=hidden) for one in spec.layers)]
            layers += self._mountpoints(spec, layers)
            holds = [undo.enter_context(layer.hold()) for layer in layers]
            self.root: FuseRoot | KernelRoot
            if fuse is None:
                self.root = self._mount(spec, driver, layers, holds, changes, limit, undo)
            else:
                self._serve(spec, fuse, layers, holds, changes, limit)
                self.root = fuse
            undo.callback(self.root.close)
            if changes is not None and limit is not None and limit.project is not None:
                # Not before the mount: it makes directories, also where the upper is full.
                from overlaykit import projects

                projects.set_limit(changes.path, limit.project, limit.size)
            if self.network is not None:
                user = self.root.user_namespace
                self.network.connect(
                    namespace.RootMount(mount=self.root.mount, user_namespace=user), spec.names
                )
            lacks = _lacks_originals(spec, self.root.driver, limit) if spec.originals else ""
            self._notes = (f"no originals are kept: {lacks}",) if lacks else ()
            self._undo = undo.pop_all()
            undo_upper.pop_all()

    @property
    def notes(self) -> tuple[str, ...]:
        """Restrictions that a user may not expect, a line each."""
        of_network = () if self.network is None else self.network.notes
        return self.root.notes + of_network + self._notes

    @property
    def holds(self) -> tuple[int, ...]:
        """What the supervisor has to keep open."""
        return self.root.holds + (() if self.network is None else self.network.holds)

    def become_supervisor(self) -> tuple[int, ...]:
        """What the supervisor, which this process becomes, keeps open while it starts."""
        return () if self.network is None else self.network.become_supervisor()

    def close(self) -> None:
        """Unmount, and wait until all is in the upper; remove the entry. Repeatable."""
        self._undo.close()

    def _mount(
        self,
        spec: ViewSpec,
        driver: str,
        layers: Sequence[Layer],
        holds: Sequence[Hold],
        changes: upper.Upper | None,
        limit: Limit | None,
        undo: ExitStack,
    ) -> FuseRoot | KernelRoot:
        """Mount with the kernel's overlayfs, or, if `driver` is `auto` and that cannot show the view, with ours."""
        from overlaykit.views.kernel_driver import KernelRefused, KernelRoot

        try:
            return KernelRoot(
                self.entry,
                layers,
                holds,
                changes,
                kept=self.upper is not None,
                limit=limit,
                userns=spec.userns,
                within=self._within,
            )
        except KernelRefused:
            if driver != drivers.AUTO:
                raise
        fuse = self._start_fuse(spec, undo)
        fuse.clean_up(self.entry)
        self._serve(spec, fuse, layers, holds, changes, limit)
        return fuse

    def _serve(
        self,
        spec: ViewSpec,
        fuse: FuseRoot,
        layers: Sequence[Layer],
        holds: Sequence[Hold],
        changes: upper.Upper | None,
        limit: Limit | None,
    ) -> None:
        fuse.serve(
            self.entry,
            layers,
            holds,
            changes,
            kept=self.upper is not None,
            limit=limit,
            data_plane=spec.data_plane,
            no_open=spec.no_open,
            pinned=_mounted_on(spec),
        )

    def _mountpoints(self, spec: ViewSpec, layers: Sequence[Layer]) -> list[Layer]:
        """A lowest layer, so that no mountpoint of the view's own files is made in an upper that is kept."""
        if self.upper is None or (spec.network == "host" and spec.names is None):
            return []
        # The kernel takes no layer in another one, and the host has these files.
        if any(below(self.entry.path, os.path.realpath(layer.path)) for layer in layers):
            return []
        return [Layer(name="mountpoints", path=self.entry.make_mountpoints())]

    def _limit(self, spec: ViewSpec, changes: upper.Upper | None) -> Limit | None:
        """The limit of the upper, with a project if its file system can keep it. It ends with the entry."""
        if changes is None or not (spec.disk or self.upper) or not namespace.is_privileged():
            return None if spec.disk is None else Limit(size=spec.disk)
        from overlaykit import projects

        # A view that was killed leaves the limit of an upper that is kept.
        projects.end_limit(changes.path)
        if spec.disk is None:
            return None
        project = projects.assign((changes.path, changes.work))
        if project is not None:
            self.entry.limited = changes.path, project
        return Limit(size=spec.disk, project=project)

    def _join(self, spec: ViewSpec, registry: Registry) -> AbstractContextManager[Membership]:
        from overlaykit.views.networks import Membership

        return closing(Membership(spec.network, self.entry, registry, outward=spec.outward))

    def _start_fuse(self, spec: ViewSpec, undo: ExitStack) -> FuseRoot:
        from overlaykit.views.fuse_driver import FuseRoot

        started = FuseRoot(spec.userns, self._within)
        undo.callback(started.abandon)
        return started

    def _prepare_upper(self, spec: ViewSpec, undo: ExitStack) -> upper.Upper | None:
        if spec.read_only:
            return None
        if spec.upper is None:
            return upper.prepare_scratch(self.entry)
        kept = upper.prepare_kept(spec.upper, undo)
        self.upper, self.made_upper = kept.path, kept.made
        if spec.originals:
            upper.keep_originals(kept)
        return kept


_OWN_FILES: Final = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""What `namespace` covers in any view."""

_FILES_OF_LIES: Final = ("/etc/machine-id", "/etc/os-release", "/usr/lib/os-release")


def _mounted_on(spec: ViewSpec) -> tuple[str, ...]:
    """The paths of the root on which the view may mount something: its own files, and what is shared or hidden."""
    shared = [one.target for one in spec.binds]
    shared += [one.target for one in spec.tmpfs]
    lies = () if spec.lies is None else _FILES_OF_LIES
    return tuple(dict.fromkeys((*_OWN_FILES, *lies, *spec.hidden, *spec.writable, *shared)))


def _lacks_originals(spec: ViewSpec, driver: str, limit: Limit | None) -> str:
    """Why a view that shall keep originals keeps none; empty: it does."""
    if spec.upper is None:
        return "the changes are dropped at the end, without --name or --upper"
    if driver == drivers.KERNEL:
        return "the kernel's driver keeps none"
    if limit is not None and limit.project is None:
        return "with a --disk that overlaykit counts itself"
    return ""
