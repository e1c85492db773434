"""The root file system of a view: its registry entry, its layers and its upper, merged by a driver."""

from __future__ import annotations

from overlaykit.layers import resolve
from overlaykit.scope import ExitStack, closing
from overlaykit.views import drivers, places, upper
from overlaykit.views.registry import Registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlaykit.layers import Hold, Layer, Store
    from overlaykit.views.fuse_driver import FuseRoot
    from overlaykit.views.kernel_driver import KernelRoot
    from overlaykit.views.spec import ViewSpec


class RootFs:
    """A mounted root file system with its registry entry. `close` unmounts it.

    Attributes: `entry`; `root`, the driver's part, whose `mount` is the root's descriptor; `upper`, the path of the
    directory that keeps changes (None: they are dropped or refused); `made_upper`, whether that is new.
    """

    def __init__(self, spec: ViewSpec, store: Store | None) -> None:
        """Mount. Raises: Error, OSError. Ensures: after an error nothing is left behind."""
        self.upper: str | None = None
        self.made_upper = False
        driver = drivers.chosen(spec.driver)
        with ExitStack() as undo, ExitStack() as undo_upper:
            fuse = self._start_fuse(spec, undo) if driver == drivers.FUSE else None
            registry = Registry()
            undo.callback(registry.remove_if_empty)
            self.entry = undo.enter_context(closing(registry.enter(spec.name)))
            changes = self._prepare_upper(spec, undo_upper)
            if fuse is not None:
                # Called after the scratch is made: without the entry, which names it, the scratch would stay.
                fuse.clean_up(self.entry)
            hidden = [changes.path, changes.work] if changes is not None else []
            hidden += places.hidden()
            layers = [resolve(text, store, hidden=hidden) for text in spec.layers]
            holds = [undo.enter_context(layer.hold()) for layer in layers]
            self.root: FuseRoot | KernelRoot
            if fuse is None:
                self.root = self._mount(spec, driver, layers, holds, changes, undo)
            else:
                kept = self.upper is not None
                fuse.serve(self.entry, layers, holds, changes, kept=kept, limit=spec.disk)
                self.root = fuse
            undo.callback(self.root.close)
            self._undo = undo.pop_all()
            undo_upper.pop_all()

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
        undo: ExitStack,
    ) -> FuseRoot | KernelRoot:
        """Mount with the kernel's overlayfs, or, if `driver` is `auto` and that cannot show the view, with ours."""
        from overlaykit.views.kernel_driver import KernelRefused, KernelRoot

        kept = self.upper is not None
        try:
            return KernelRoot(
                self.entry, layers, holds, changes, kept=kept, limit=spec.disk, userns=spec.userns
            )
        except KernelRefused:
            if driver != drivers.AUTO:
                raise
        fuse = self._start_fuse(spec, undo)
        fuse.clean_up(self.entry)
        fuse.serve(self.entry, layers, holds, changes, kept=kept, limit=spec.disk)
        return fuse

    @staticmethod
    def _start_fuse(spec: ViewSpec, undo: ExitStack) -> FuseRoot:
        from overlaykit.views.fuse_driver import FuseRoot

        started = FuseRoot(spec.userns)
        undo.callback(started.abandon)
        return started

    def _prepare_upper(self, spec: ViewSpec, undo: ExitStack) -> upper.Upper | None:
        if spec.read_only:
            return None
        if spec.upper is None:
            return upper.prepare_scratch(self.entry)
        kept = upper.prepare_kept(spec.upper, undo)
        self.upper, self.made_upper = kept.path, kept.made
        return kept
