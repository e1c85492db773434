"""Lowers and an upper that a real mount writes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import final

from overlaykit.changes.model import Change
from overlaykit.changes.opening import open_directory
from overlaykit.changes.read import Comparison
from overlaykit.overlay import began, originals
from overlaykit.overlay.marker_names import TRUSTED_PREFIX, USER_PREFIX

from ..posix import syscalls
from ..posix.layers import write_layer
from ..posix.systems import Stack, System
from ..posix.table import Layer

_COARSE = 5
"""CLOCK_REALTIME_COARSE"""


@final
class Workspace:
    """Lowers, top first, and an upper, all in `directory`. `system`: the overlay that writes the upper.

    `keeps_originals`: as `run --keep-originals` has it.

    Nothing is made before it is used, in the test's own process.
    """

    def __init__(self, directory: str, system: System, *, unprivileged: bool) -> None:
        self.system = system
        self.unprivileged = unprivileged
        self.lowers: list[str] = []
        self.keeps_originals = False
        self._directory = directory
        self.upper, work, self.target = (
            os.path.join(directory, name) for name in ("upper", ".upper.overlaykit", "target")
        )
        self._work = work

    def add(self, content: Layer) -> str:
        """Add a lower below the others. Returns: its path."""
        path = os.path.join(self._directory, f"lower{len(self.lowers)}")
        os.mkdir(path)
        write_layer(content, path, xattr_prefix="user" if self.unprivileged else "trusted")
        self.lowers.append(path)
        return path

    def add_as_in_container(self, content: Layer) -> str:
        """Add a lower that the kernel's overlayfs shows, without `redirect_dir`. Returns: its path."""
        below = self.add(content)
        upper, work, merged = (f"{below}.{name}" for name in ("upper", "work", "merged"))
        for path in (upper, work, merged):
            os.mkdir(path)
        options = f"lowerdir={below},upperdir={upper},workdir={work}"
        options += ",userxattr" if self.unprivileged else ",redirect_dir=nofollow"
        syscalls.mount(b"overlay", os.fsencode(merged), b"overlay", 0, os.fsencode(options))
        self.lowers[-1] = merged
        return merged

    def beside(self, name: str) -> Workspace:
        """Another upper over the same lowers."""
        directory = os.path.join(self._directory, name)
        os.mkdir(directory)
        other = Workspace(directory, self.system, unprivileged=self.unprivileged)
        other.lowers = self.lowers
        return other

    @contextlib.contextmanager
    def mounted(self) -> Iterator[str]:
        """Mount the stack and make the merge the working directory. Returns: its path."""
        stack = Stack(
            tuple(map(os.fsencode, self.lowers)),
            upper=os.fsencode(self.upper),
            work=os.fsencode(self._work),
        )
        for path in (self.upper, self._work, self.target):
            os.makedirs(path, exist_ok=True)
        if self.keeps_originals:
            originals.prepare(self._work)
        if self.system.name == "kernel" and not os.listdir(self.upper):
            self._begin()
        before = os.getcwd()
        self.system.mount(stack, os.fsencode(self.target))
        os.chdir(self.target)
        try:
            yield self.target
        finally:
            os.chdir(before)
            self.system.unmount(os.fsencode(self.target))

    def _begin(self) -> None:
        """Record the begin as overlaykit's kernel driver does, at a time that no file has yet."""
        now = time.time_ns()
        while time.clock_gettime_ns(_COARSE) <= now:
            time.sleep(0)
        prefix = USER_PREFIX if self.unprivileged else TRUSTED_PREFIX
        began.record(os.fsencode(self.upper), prefix)

    @contextlib.contextmanager
    def compared(self) -> Iterator[Comparison]:
        with Comparison.of_upper(
            open_directory(self.upper), list(map(open_directory, self.lowers))
        ) as comparison:
            yield comparison

    def changes(self, beneath: bytes = b"", *, times: bool = False) -> list[Change]:
        with self.compared() as comparison:
            return list(comparison.changes(beneath, times=times))

    def listed(self, beneath: bytes = b"") -> list[str]:
        """The changes as lines: the kind, the path, where it was and what differs."""
        return list(map(_line, self.changes(beneath)))


def _line(change: Change) -> str:
    line = f"{change.kind} {os.fsdecode(change.path)}"
    if change.kind == "renamed":
        assert change.old_path is not None
        line += f" from {os.fsdecode(change.old_path)}"
    if change.link is not None:
        line += f" link to {os.fsdecode(change.link)}"
    what = sorted(change.what - {"times"})
    return f"{line}: {' '.join(what)}" if what else line
