"""A mount with its daemon, started by `overlaykit.fuse.daemon.Daemon`, and a check of how the daemon ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from overlaykit import mountinfo
from overlaykit.fuse import control, daemon, directories
from overlaykit.fuse.daemon_start import DaemonProcess
from overlaykit.fuse.spec import LayerSpec, MountOptions, MountSpec

from ..overlay.stack import Stack
from ..posix import syscalls

_MOST_POLLS = 5000

DATA_PLANE = os.environ.get("OVERLAYKIT_TEST_DATA_PLANE", "on") == "on"
"""Whether the mounts of the tests use the data plane, unless a test says so itself."""

_DATA: Any = os.environ.get("OVERLAYKIT_TEST_DATA", "cache")
"""How their files are read and written, unless a test says so itself."""

NO_OPEN = os.environ.get("OVERLAYKIT_TEST_NO_OPEN", "off") == "on"
"""Whether programs in the mounts of the tests open files without a request, but where a test asks for a keeper, which
has to know the open files."""

_RESTART = os.environ.get("OVERLAYKIT_TEST_RESTART", "off") == "on"
"""Whether the mounts of the tests have a keeper, as those of `overlaykit mount`, unless a test says so itself."""

only_with_open = pytest.mark.skipif(NO_OPEN, reason="is about what an OPEN does")
only_with_plane = pytest.mark.skipif(not DATA_PLANE, reason="is about what the data plane answers")


@dataclass(frozen=True)
class Mounted:
    """A mount that is ready. `target`: its mountpoint; `process`: the daemon; `log_path`: the daemon's log."""

    target: str
    process: DaemonProcess
    control_path: str
    log_path: str

    def path(self, name: str) -> str:
        return os.path.join(self.target, name)

    def counted(self) -> control.Measured:
        return control.ask(self.control_path, control.Stats(), control.Measured)

    def await_held(self, **expected: int) -> None:
        """Poll until the daemon holds these numbers.

        The kernel does not wait for FORGET and RELEASE: only the count shows when the last one has arrived.
        """
        for _ in range(_MOST_POLLS):
            held = self.counted().held
            if all(held[kind] == number for kind, number in expected.items()):
                return
        raise AssertionError(f"still held: {held}")

    def forget(self) -> dict[str, int]:
        """Make the kernel drop its caches, as when memory is short. Returns what the daemon holds then."""
        # A remount clears the flags that it does not repeat.
        lazytime = syscalls.MS_LAZYTIME if self._is_lazytime() else 0
        syscalls.mount(b"none", os.fsencode(self.target), None, syscalls.MS_REMOUNT | lazytime)
        for _ in range(self.counted().held["nodes"]):
            # The reply comes after some more FORGET requests, which have none.
            os.statvfs(self.target)
        return self.counted().held

    def _is_lazytime(self) -> bool:
        with open("/proc/self/mounts", encoding="utf-8") as file:
            mounts = [line.split() for line in file]
        return any(one[1] == self.target and "lazytime" in one[3].split(",") for one in mounts)

    @contextlib.contextmanager
    def requests(self) -> Iterator[Counter[str]]:
        """The requests of the kernel during the body, by kind; filled in at its end."""
        during: Counter[str] = Counter()
        before = self.counted().requests
        yield during
        during.update(self.counted().requests)
        during.subtract(before)
        for kind in [kind for kind, number in during.items() if not number]:
            del during[kind]

    def is_there(self) -> bool:
        return any(mount.mountpoint == self.target for mount in mountinfo.current())

    def unmount(self) -> None:
        """Unmount, and wait until the daemon exits with status 0."""
        syscalls.umount2(os.fsencode(self.target))
        assert self.process.wait()


def spec_of(stack: Stack, *, writable: bool = True, **more: Any) -> MountSpec:
    """The spec of a mount of the stack, below its directory."""
    target = os.path.join(stack.directory, "merged")
    for path in (stack.upper, stack.work, target):
        os.makedirs(path, exist_ok=True)
    fields: dict[str, Any] = {
        "source": "tests",
        "layers": tuple(LayerSpec(path=path) for path in stack.lowers),
        "upper": stack.upper if writable else None,
        "work": stack.work if writable else None,
        "target": target,
        "options": MountOptions(userxattr=stack.unprivileged, metacopy=stack.metacopy),
        "log_path": os.path.join(stack.directory, "log"),
        "restart": _RESTART,
    }
    spec = MountSpec(**(fields | more))
    options = spec.options
    return spec.replace(
        options=options.replace(
            data_plane=options.data_plane and DATA_PLANE,
            data=_DATA if options.data == "cache" else options.data,
            no_open="on" if NO_OPEN and not more.get("restart") else options.no_open,
        )
    )


@contextlib.contextmanager
def mounted(stack: Stack, *, writable: bool = True, **more: Any) -> Iterator[Mounted]:
    """Mount the stack; at the end, unmount it unless its daemon has ended."""
    spec = spec_of(stack, writable=writable, **more)
    with started(spec, stack.directory) as mount:
        yield mount
        if mount.process.is_alive():
            mount.unmount()
    assert not os.path.exists(mount.log_path), "the daemon logged something"


@contextlib.contextmanager
def started(
    spec: MountSpec,
    directory: str,
    *,
    hand_over: Sequence[str] = (),
    before_serving: Callable[[], None] = lambda: None,
) -> Iterator[Mounted]:
    """A daemon for `spec`; at the end it is killed, and its mount detached.

    `hand_over`: paths of the spec that are opened here; `before_serving` is called before the daemon has the spec.
    """
    assert spec.target is not None
    control_path = os.path.join(directory, "control")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(control_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(control_path)
        listener.listen()
        served = daemon.Daemon(prepare=_die_with_the_test)
        for path in hand_over:
            fd = directories.open_directory(path)
            assert served.hand_over(path, fd) == path
            os.close(fd)
        before_serving()
        served.serve(spec, listener)
    process = served.process
    mount = Mounted(spec.target, process, control_path, spec.log_path)
    try:
        yield mount
    finally:
        if process.is_alive():
            process.kill()
        process.wait_for_end()
        process.close()
        with contextlib.suppress(OSError):
            syscalls.umount2(os.fsencode(spec.target), syscalls.MNT_DETACH)


def await_unmounted(mount: Mounted) -> None:
    """Wait until the mount is detached: polling mountinfo reports each change (proc_pid_mounts(5))."""
    with open("/proc/self/mountinfo", "rb") as file:
        poll = select.poll()
        poll.register(file, select.POLLPRI)
        while mount.is_there():
            poll.poll()


def _die_with_the_test() -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
