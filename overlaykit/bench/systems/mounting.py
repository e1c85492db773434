"""Mounted systems: each round has a new mount, upper and daemon, and always unmounts."""

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
from overlaykit.bench.systems.processes import reap_on_exit
from overlaykit.bench.systems.system import Layers, Show, Tree
from overlaykit.fuse.mount import HELPER
from overlaykit.rmtree import rmtree_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Directories:
    """The directories of one mount, as absolute paths. `lowers`: top first; the others are empty."""

    lowers: tuple[str, ...]
    upper: str
    work: str
    target: str


@dataclass(frozen=True, slots=True)
class Uncounted:
    """A tree without counters."""

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
            with _directories(layers) as directories, reap_on_exit():
                try:
                    yield self.mount(directories)
                finally:
                    unmount(directories.target)
                    self.unmounted()

        yield show

    @abstractmethod
    def mount(self, directories: Directories) -> Tree:
        """Mount, and return once the mount is ready. The caller unmounts and ends processes after a failure too."""

    def unmounted(self) -> None:  # noqa: B027  # a hook
        """Called after each unmount."""


def unmount(target: str) -> None:
    """Unmount all that is mounted on `target`; detach it where it is busy."""
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
    except PermissionError:  # an ordinary user unmounts through the set-user-ID helper
        how = ["-u", "-z"] if lazy else ["-u"]
        done = subprocess.run([HELPER, *how, "--", target], stderr=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), target) from None


def is_mountpoint(target: str) -> bool:
    """Read the mount table, because the daemon behind `target` may be dead."""
    path = os.path.realpath(os.path.dirname(target)) + "/" + os.path.basename(target)
    return any(mount.mountpoint == path for mount in mountinfo.current())


@contextlib.contextmanager
def _directories(layers: Layers) -> Iterator[Directories]:
    """A temporary upper, work directory and target."""
    directory = tempfile.mkdtemp(dir=layers.directory)
    try:
        made = {name: os.path.join(directory, name) for name in ("upper", "work", "target")}
        for path in made.values():
            os.mkdir(path)
        yield Directories(lowers=layers.lowers, **made)
    finally:
        rmtree_path(directory)
