"""The file systems that are compared, behind one interface.

`mount` mounts the directories of a `Stack` at a target, `unmount` unmounts it. Both run inside a `Sandbox`, which
cleans up after a process that died.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..patience import patience
from . import syscalls


@dataclass(frozen=True)
class Stack:
    """The directories of one view, absolute paths as bytes."""

    lowers: tuple[bytes, ...]
    """Read-only layers, top first."""
    upper: bytes | None = None
    """The writable layer; None: the view is read-only."""
    work: bytes | None = None
    """An empty directory on the upper's file system, for the overlay's own use."""


class System(Protocol):
    """A file system that shows a stack of directories as one tree."""

    name: ClassVar[str]
    takes_root: ClassVar[bool]
    """True if only the sandbox's root mounts and unmounts it."""

    def mount(self, stack: Stack, target: bytes) -> None: ...

    def unmount(self, target: bytes) -> None: ...


@dataclass(frozen=True)
class Plain:
    """A plain directory, without an overlay. Takes an upper, or one lower."""

    name: ClassVar[str] = "plain"
    takes_root: ClassVar[bool] = True

    def mount(self, stack: Stack, target: bytes) -> None:
        source = stack.upper or stack.lowers[0]
        syscalls.mount(source, target, None, syscalls.MS_BIND)
        if stack.upper is None:
            flags = syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY
            syscalls.mount(source, target, None, flags)

    def unmount(self, target: bytes) -> None:
        syscalls.umount2(target)


def overlay_options(stack: Stack, *, unprivileged: bool, metacopy: bool = False) -> bytes:
    """The option string that the kernel's overlayfs and overlaykit both take.

    Without an index the kernel breaks the hard links of a lower. With `userxattr` it refuses both
    (Documentation/filesystems/overlayfs.rst, "User xattr" and "Inode properties").
    """
    options = [b"lowerdir=" + b":".join(_escape(lower) for lower in stack.lowers)]
    if stack.upper is not None and stack.work is not None:
        options += [b"upperdir=" + _escape(stack.upper), b"workdir=" + _escape(stack.work)]
    metacopies = b"metacopy=on" if metacopy else b"metacopy=off"
    options += [b"userxattr"] if unprivileged else [b"redirect_dir=on", b"index=on", metacopies]
    return b",".join(options)


def _escape(path: bytes) -> bytes:
    for special in (b"\\", b":", b","):
        path = path.replace(special, b"\\" + special)
    return path


@dataclass(frozen=True)
class KernelOverlay:
    """The kernel's overlayfs: the reference."""

    unprivileged: bool
    metacopy: bool = False
    name: ClassVar[str] = "kernel"
    takes_root: ClassVar[bool] = True

    def mount(self, stack: Stack, target: bytes) -> None:
        options = overlay_options(stack, unprivileged=self.unprivileged, metacopy=self.metacopy)
        syscalls.mount(b"overlay", target, b"overlay", 0, options)

    def unmount(self, target: bytes) -> None:
        syscalls.umount2(target)


@dataclass(frozen=True)
class Overlaykit:
    """overlaykit, through its command line; `more`: options that the kernel does not take."""

    unprivileged: bool
    more: tuple[str, ...] = ()
    metacopy: bool = False
    name: ClassVar[str] = "overlaykit"
    takes_root: ClassVar[bool] = False

    def mount(self, stack: Stack, target: bytes) -> None:
        options = os.fsdecode(
            overlay_options(stack, unprivileged=self.unprivileged, metacopy=self.metacopy)
        )
        ours = (
            f"no_open={os.environ.get('OVERLAYKIT_TEST_NO_OPEN', 'off')}",
            f"data_plane={os.environ.get('OVERLAYKIT_TEST_DATA_PLANE', 'on')}",
            f"data={os.environ.get('OVERLAYKIT_TEST_DATA', 'cache')}",
        )
        self._run(target, "mount", "-o", ",".join((options, *ours, *self.more)))

    def unmount(self, target: bytes) -> None:
        self._run(target, "umount")

    def _run(self, target: bytes, *arguments: str) -> None:
        # Its records and log are beside the mount, and are removed with it; /run is the sandbox's own.
        home = os.fsdecode(os.path.dirname(target))
        inherited = {name: os.environ[name] for name in os.environ if not name.startswith("XDG_")}
        done = subprocess.run(
            [sys.executable, "-m", "overlaykit", *arguments, os.fsdecode(target)],
            env=inherited | {"HOME": home, "XDG_RUNTIME_DIR": home},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience(60),  # also if a daemon keeps the pipe open
        )
        if done.returncode != 0:
            raise RuntimeError(f"overlaykit {' '.join(arguments)}: {done.stderr.strip()}")
