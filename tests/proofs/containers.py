"""podman with a storage of its own, in a mount namespace of its own, as root or as an ordinary user.

No registry is asked for anything: the one image is imported from a tar file with a static shell.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar, final

from overlaykit import mountinfo

from ..posix import syscalls
from ..posix.sandbox import ORDINARY_UID, Sandbox, make_reachable

PROGRAM = os.path.join(os.path.dirname(sys.executable), "overlaykit")
IMAGE = "localhost/shell"

SECONDS = 300.0
"""What one call of podman may take."""

T = TypeVar("T")

Mode = Literal["rootful", "rootless"]

_STORAGE = """
[storage]
driver = "overlay"
runroot = "{directory}/run"
graphroot = "{directory}/store"
rootless_storage_path = "{directory}/store"
[storage.options.overlay]
mount_program = "{program}"
"""
# Limits that even a root without CAP_SYS_RESOURCE may set; no cgroups, whose hierarchy may be the machine's old one.
_CONTAINERS = """
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
_ACCOUNTS = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nsomebody:x:{uid}:{uid}::{directory}:/bin/sh\n",
    "group": "root:x:0:\nsomebody:x:{uid}:\n",
    "subuid": "somebody:300000:65536\ncontainers:200000:65536\n",
    "subgid": "somebody:300000:65536\ncontainers:200000:65536\n",
}
"""Who somebody is in /etc, and which further ids podman gives to containers; seen in the mount namespace alone."""

_COMMANDS = [
    "cat",
    "chown",
    "echo",
    "id",
    "ln",
    "ls",
    "mkdir",
    "mv",
    "rm",
    "sh",
    "sleep",
    "stat",
    "test",
    "touch",
]


@dataclass(frozen=True)
class Done:
    """How a program ended: its status, and what it printed on either output."""

    status: int
    printed: str
    complained: str


@final
class Podman:
    """One storage in `directory`, whose containers we mount. To be closed."""

    def __init__(self, mode: Mode, directory: str) -> None:
        self.mode = mode
        self.directory = directory
        self._place = Sandbox(unprivileged=False)
        for name, text in {"storage.conf": _STORAGE, "containers.conf": _CONTAINERS}.items():
            with open(self.path(name), "w", encoding="ascii") as file:
                file.write(text.format(directory=directory, program=PROGRAM))
        os.mkdir(self.path("xdg"), 0o700)
        os.mkdir(self.path("home"))
        _write_image(self.path("image.tar"))
        if mode == "rootless":
            os.chmod(directory, 0o755)
            for path in [directory, *map(self.path, os.listdir(directory))]:
                os.chown(path, ORDINARY_UID, ORDINARY_UID)
        self._place.run(self._prepare)

    def close(self) -> None:
        """End everything that still runs or is mounted; the caller removes the directory."""
        while running := self._running():  # one may have started another
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._place.close()

    def path(self, *names: str) -> str:
        return os.path.join(self.directory, *names)

    def write(self, text: str, *names: str) -> str:
        """A file of the user's; its path."""
        path = self.path(*names)
        self.as_user(lambda: _write(path, text))
        return path

    def run(self, *arguments: str) -> Done:
        """Run podman."""
        return self.as_user(lambda: _run(["podman", *arguments], self._environment()))

    def succeeds(self, *arguments: str) -> str:
        """What podman prints; it has to succeed."""
        done = self.run(*arguments)
        assert done.status == 0, f"podman {' '.join(arguments)}: {done.status}: {done.complained}"
        return done.printed

    def prints(self, image: str, script: str, *options: str) -> str:
        """What a shell script prints in a container of its own, which has to succeed."""
        return self.succeeds("run", "--rm", *options, image, "sh", "-euc", script)

    def as_user(self, function: Callable[[], T]) -> T:
        """Run a function in the mount namespace, as who runs podman."""
        __tracebackhide__ = True

        def act() -> T:
            if self.mode == "rootless":
                os.setgroups([])
                os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
                os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
                syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
            os.chdir(self.directory)
            return function()

        return self._place.run(act, timeout=SECONDS)

    def mounts(self) -> list[str]:
        """Where something is mounted below the directory, in the mount namespace."""
        return self._place.run(
            lambda: [
                mount.mountpoint
                for mount in mountinfo.current()
                if mountinfo.below(mount.mountpoint, self.directory)
            ]
        )

    def processes(self) -> list[str]:
        """The command lines of the processes that podman has started and that still run."""
        found = []
        for pid in self._running():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                found.append(_read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode())
        return found

    def await_cleanup(self) -> None:
        """Wait until all containers have ended and are cleaned up, which goes on after `run` has returned."""
        while pids := [pid for pid in self._running() if _is_cleaning_up(pid)]:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    process = os.pidfd_open(pid)
                    select.select([process], [], [])
                    os.close(process)

    def _running(self) -> list[int]:
        """Those that name the directory in their arguments or their environment."""
        mark = os.fsencode(self.directory)
        found = []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                if mark in _read(f"/proc/{pid}/cmdline") + _read(f"/proc/{pid}/environ"):
                    found.append(pid)
        return found

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": self.path("home"),
            "TMPDIR": self.directory,
            "XDG_RUNTIME_DIR": self.path("xdg"),
            "CONTAINERS_STORAGE_CONF": self.path("storage.conf"),
            "CONTAINERS_CONF": self.path("containers.conf"),
        }

    def _prepare(self) -> None:
        """Give the mount namespace accounts, and the one hierarchy of cgroups that crun knows."""
        make_reachable()
        accounts = self.path("etc")
        os.mkdir(accounts)
        for name, text in _ACCOUNTS.items():
            path = os.path.join(accounts, name)
            _write(path, text.format(uid=ORDINARY_UID, directory=self.path("home")))
            syscalls.mount(os.fsencode(path), f"/etc/{name}".encode(), None, syscalls.MS_BIND)
        with contextlib.suppress(OSError):  # there may be none
            syscalls.umount2(b"/sys/fs/cgroup", syscalls.MNT_DETACH)
        syscalls.mount(b"none", b"/sys/fs/cgroup", b"cgroup2", 0)


def _is_cleaning_up(pid: int) -> bool:
    """Whether it is a container's monitor, or what that runs at the container's end."""
    try:
        command = _read(f"/proc/{pid}/cmdline")
    except OSError:
        return False
    return b"conmon" in command.split(b"\0")[0] or b"\0container\0cleanup\0" in command


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _run(command: list[str], environment: dict[str, str]) -> Done:
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # its pause process goes on when the caller's session has ended
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _write_image(path: str) -> None:
    """A root file system of a shell and a few commands."""
    with tarfile.open(path, "w") as tar:
        for name, mode in {"bin": 0o755, "etc": 0o755, "home": 0o755, "tmp": 0o1777}.items():
            directory = tarfile.TarInfo(name)
            directory.type = tarfile.DIRTYPE
            directory.mode = mode
            tar.addfile(directory)
        tar.add("/bin/busybox", "bin/busybox")
        for name in _COMMANDS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type = tarfile.SYMTYPE
            link.linkname = "busybox"
            tar.addfile(link)
        text = b"root:x:0:0:root:/:/bin/sh\n"
        passwd = tarfile.TarInfo("etc/passwd")
        passwd.size = len(text)
        tar.addfile(passwd, io.BytesIO(text))
