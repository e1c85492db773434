"""Layers on a disk, their merge, and the checks at its end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final, final

from overlaykit.overlay.filesystem import Filesystem
from overlaykit.overlay.opened import OpenedLayer
from overlaykit.overlay.stack import MergeOptions

from ..posix import syscalls
from ..posix.layers import write_layer
from ..posix.systems import Stack as Directories
from ..posix.systems import overlay_options
from ..posix.table import Layer
from .seen import Seen, look_through, looked_at
from .view import View

# The root is never forgotten.
_NOTHING_HELD: Final = {"nodes": 1, "nlookup": 1, "open_files": 0}


@final
class Stack:
    """Lowers, top first, an upper and a work directory, all in `directory`.

    `prefix`: of the markers' names, "trusted" or "user". `metacopy`: mounted with that option, unless others are given.
    """

    def __init__(self, directory: str, *, unprivileged: bool) -> None:
        self.directory = directory
        self.unprivileged = unprivileged
        self.metacopy = False
        self.prefix = "user" if unprivileged else "trusted"
        self.lowers: list[str] = []
        self.upper = os.path.join(directory, "upper")
        self.work = os.path.join(directory, "work")

    def marker(self, name: str) -> str:
        """The full name of an overlay marker's attribute."""
        return f"{self.prefix}.overlay.{name}"

    def add(self, content: Layer) -> str:
        """Add a lower below the others. Returns: its path."""
        path = os.path.join(self.directory, f"lower{len(self.lowers)}")
        os.mkdir(path)
        write_layer(content, path, xattr_prefix=self.prefix)
        self.lowers.append(path)
        return path

    @contextlib.contextmanager
    def open(
        self,
        *,
        writable: bool = True,
        as_kernel: bool = True,
        remount: bool = True,
        options: MergeOptions | None = None,
    ) -> Iterator[View]:
        """Open the merge; after the block, check four things.

        With every lookup forgotten no node is held. After the close no descriptor is open. `remount`: a second merge
        shows the same tree with the same inode numbers. `as_kernel`: so does the kernel's overlayfs over the same
        directories, and the lowers have not changed.
        """
        os.umask(0)  # as in the daemon: modes come from the kernel with the caller's applied
        lowers = [looked_at(lower) for lower in self.lowers] if as_kernel else []
        before = _descriptors()
        view = self._view(writable, options)
        try:
            yield view
            seen = look_through(view)
            nodeids = _nodeids(view, seen)
            view.forget_everything()
            held = view.filesystem.counts()
            assert {key: held[key] for key in _NOTHING_HELD} == _NOTHING_HELD
        finally:
            view.filesystem.close()
        assert _descriptors() == before, "descriptors that outlive the merge"
        if remount:
            with self.bare(writable=writable, options=options) as again:
                assert look_through(again) == seen
                assert _nodeids(again, seen) == nodeids
        if as_kernel:
            metacopy = self.metacopy if options is None else options.metacopy
            with self.mounted_by_the_kernel(writable=writable, metacopy=metacopy) as target:
                assert looked_at(target) == seen
            assert [looked_at(lower) for lower in self.lowers] == lowers

    @contextlib.contextmanager
    def bare(self, *, writable: bool = True, options: MergeOptions | None = None) -> Iterator[View]:
        """Open the merge without the checks."""
        view = self._view(writable, options)
        with contextlib.closing(view.filesystem):
            yield view

    @contextlib.contextmanager
    def mounted_by_the_kernel(
        self, *, writable: bool = True, metacopy: bool | None = None
    ) -> Iterator[str]:
        """Mount the kernel's overlayfs over the same directories; without an upper it needs two lowers."""
        on = self.metacopy if metacopy is None else metacopy
        self._make_directories()
        target = os.path.join(self.directory, "merged")
        os.makedirs(target, exist_ok=True)
        directories = Directories(
            tuple(map(os.fsencode, self.lowers)),
            os.fsencode(self.upper) if writable else None,
            os.fsencode(self.work) if writable else None,
        )
        data = overlay_options(directories, unprivileged=self.unprivileged, metacopy=on)
        syscalls.mount(b"overlay", os.fsencode(target), b"overlay", 0, data)
        try:
            yield target
        finally:
            syscalls.umount2(os.fsencode(target))

    def _view(self, writable: bool, options: MergeOptions | None) -> View:
        self._make_directories()
        lowers = [_opened(path) for path in self.lowers]
        upper = _opened(self.upper) if writable else None
        work = _opened(self.work) if writable else None
        options = options or MergeOptions(userxattr=self.unprivileged, metacopy=self.metacopy)
        try:
            return View(Filesystem(lowers, upper, work, options))
        except OSError:
            for opened in filter(None, (*lowers, upper, work)):
                os.close(opened.fd)
            raise

    def _make_directories(self) -> None:
        for path in (self.upper, self.work):
            os.makedirs(path, exist_ok=True)


def _opened(path: str) -> OpenedLayer:
    return OpenedLayer(os.open(path, os.O_PATH | os.O_DIRECTORY), path, mounted_in=frozenset())


def _nodeids(view: View, seen: dict[str, Seen]) -> dict[str, int]:
    """The inode numbers that a remount keeps: those of regular files and directories, which can have an origin."""
    return {path: view.stat(path).nodeid for path, one in seen.items() if one.keeps_its_nodeid}


def _descriptors() -> set[str]:
    listed = os.listdir("/proc/self/fd")
    return {fd for fd in listed if os.path.lexists(f"/proc/self/fd/{fd}")}  # not the listing's own
