"""podman with its own storage in its own mount namespace, as root or as an ordinary user.

No registry is used: the one image is imported from a tar file with a static shell.
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
"""The time limit of one call of podman."""

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
    "passwd": "root:x:0:0:root:/root:/bin/sh\nalice:x:{uid}:{uid}::{directory}:/bin/sh\n",
    "group": "root:x:0:\nalice:x:{uid}:\n",
    "subuid": "alice:300000:65536\ncontainers:200000:65536\n",
    "subgid": "alice:300000:65536\ncontainers:200000:65536\n",
}
"""Files of /etc in the mount namespace: the user, and the ids that podman gives to containers."""

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
    """The status and outputs of a program that ended."""

    status: int
    printed: str
    complained: str


@final
class Podman:
    """One storage in `directory`, with overlaykit as mount_program. Must be closed."""

    def __init__(self, mode: Mode, directory: str) -> None:
        self.mode = mode
        self.directory = directory
        self._sandbox = Sandbox(unprivileged=False)
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
        self._sandbox.run(self._prepare)

    def close(self) -> None:
        """End all processes and mounts; the caller removes the directory."""
        while running := self._running():  # a process may have started another
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._sandbox.close()

    def path(self, *names: str) -> str:
        return os.path.join(self.directory, *names)

    def write(self, text: str, *names: str) -> str:
        """Write a file as the user; return its path."""
        path = self.path(*names)
        self.as_user(lambda: _write(path, text))
        return path

    def run(self, *arguments: str) -> Done:
        """Run podman."""
        return self.as_user(lambda: _run(["podman", *arguments], self._environment()))

    def succeeds(self, *arguments: str) -> str:
        """The output of podman, which must succeed."""
        done = self.run(*arguments)
        assert done.status == 0, f"podman {' '.join(arguments)}: {done.status}: {done.complained}"
        return done.printed

    def prints(self, image: str, script: str, *options: str) -> str:
        """The output of a shell script in a new container; it must succeed."""
        return self.succeeds("run", "--rm", *options, image, "sh", "-euc", script)

    def as_user(self, function: Callable[[], T]) -> T:
        """Run a function in the mount namespace, as the user of podman."""
        __tracebackhide__ = True

        def act() -> T:
            if self.mode == "rootless":
                os.setgroups([])
                os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
                os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
                syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
            os.chdir(self.directory)
            return function()

        return self._sandbox.run(act, timeout=SECONDS)

    def mounts(self) -> list[str]:
        """The mountpoints below the directory, in the mount namespace."""
        return self._sandbox.run(
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
            with contextlib.suppress(OSError):  # it has ended
                found.append(_read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode())
        return found

    def await_cleanup(self) -> None:
        """Wait until all containers have ended and are cleaned up, which continues after `run` returns."""
        while pids := [pid for pid in self._running() if _is_cleaning_up(pid)]:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    process = os.pidfd_open(pid)
                    select.select([process], [], [])
                    os.close(process)

    def _running(self) -> list[int]:
        """The processes that name the directory in their arguments or their environment."""
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
        """Give the mount namespace accounts, and the one cgroup hierarchy that crun supports."""
        make_reachable()
        accounts = self.path("etc")
        os.mkdir(accounts)
        for name, text in _ACCOUNTS.items():
            path = os.path.join(accounts, name)
            _write(path, text.format(uid=ORDINARY_UID, directory=self.path("home")))
            syscalls.mount(os.fsencode(path), f"/etc/{name}".encode(), None, syscalls.MS_BIND)
        with contextlib.suppress(OSError):  # it may be missing
            syscalls.umount2(b"/sys/fs/cgroup", syscalls.MNT_DETACH)
        syscalls.mount(b"none", b"/sys/fs/cgroup", b"cgroup2", 0)


def _is_cleaning_up(pid: int) -> bool:
    """True for a container's monitor and for what the monitor runs at the container's end."""
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
        start_new_session=True,  # its pause process outlives the caller's session
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
