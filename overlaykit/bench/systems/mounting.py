"""Mounting, and unmounting come what may: each round has a mount, an upper and a daemon of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from overlaykit import _native, mountinfo
from overlaykit.bench.systems.processes import looked_after
from overlaykit.bench.systems.system import Layers, Show, Tree
from overlaykit.fuse.mount import HELPER
from overlaykit.rmtree import rmtree_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Directories:
    """Of one mount, absolute paths: `lowers`, top first; `upper` and `work` are empty, as is `target`."""

    lowers: tuple[str, ...]
    upper: str
    work: str
    target: str


@dataclass(frozen=True, slots=True)
class Uncounted:
    """A tree whose requests nobody counts."""

    path: str

    def counts(self) -> None:
        return None


class Mounting(ABC):
    """A system that is mounted."""

    name: str
    what: str
    counts = False

    @contextlib.contextmanager
    def over(self, layers: Layers) -> Iterator[Show]:
        @contextlib.contextmanager
        def show() -> Iterator[Tree]:
            with _directories(layers) as directories, looked_after():
                try:
                    yield self.mount(directories)
                finally:
                    unmount(directories.target)
                    self.unmounted()

        yield show

    @abstractmethod
    def mount(self, directories: Directories) -> Tree:
        """Mount, and return once the mount answers. If it fails, what it left is unmounted, its processes are ended."""

    def unmounted(self) -> None:  # noqa: B027  # most have nothing to do
        """Called once the mount is gone."""


def unmount(target: str) -> None:
    """Unmount whatever is at `target`; out of sight at least, where something still uses it."""
    while is_mountpoint(target):
        try:
            _unmount(target)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _unmount(target, lazy=True)


def _unmount(target: str, *, lazy: bool = False) -> None:
    flags = _native.UMOUNT_NOFOLLOW | (_native.MNT_DETACH if lazy else 0)
    try:
        _native.umount2(target, flags)
    except PermissionError:  # an ordinary user's mounts are the helper's
        how = ["-u", "-z"] if lazy else ["-u"]
        done = subprocess.run([HELPER, *how, "--", target], stderr=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), target) from None


def is_mountpoint(target: str) -> bool:
    """Asks nobody but the kernel: the daemon behind `target` may be dead."""
    path = os.path.realpath(os.path.dirname(target)) + "/" + os.path.basename(target)
    return any(mount.mountpoint == path for mount in mountinfo.current())


@contextlib.contextmanager
def _directories(layers: Layers) -> Iterator[Directories]:
    """An upper, a work directory and a target, which go with all that was written."""
    directory = tempfile.mkdtemp(dir=layers.directory)
    try:
        made = {name: os.path.join(directory, name) for name in ("upper", "work", "target")}
        for path in made.values():
            os.mkdir(path)
        yield Directories(lowers=layers.lowers, **made)
    finally:
        rmtree_path(directory)
