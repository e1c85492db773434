"""Launchers that isolate a command, and the plain command as their baseline."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from overlaykit.bench.systems.known import PLAIN
from overlaykit.bench.workload import Subject, Unfit
from overlaykit.views import server

OURS: Final = "overlaykit"
COLD: Final = "overlaykit, no server"
KERNEL: Final = "overlaykit, kernel"

_PODMAN_LIMITS: Final = {
    "nofile": (resource.RLIMIT_NOFILE, 4096),
    "nproc": (resource.RLIMIT_NPROC, 4096),
}
"""Limits that podman raises by default, also above the hard limit, where it then fails."""

_UNLIMITED: Final = 1 << 64
_ROOT: Final = "root"


@dataclass(frozen=True, slots=True)
class Launcher:
    """A command prefix. `package`: its Debian package; `what`: what the launcher sets up.

    `variables`: added to the environment. `complete`: makes the arguments that follow the prefix of those of the
    command. `surroundings`: what the launcher needs while it is measured.
    """

    name: str
    argv: tuple[str, ...]
    package: str
    what: str
    variables: Mapping[str, str] = field(default_factory=dict)
    complete: Callable[[Sequence[str]], Sequence[str]] = tuple
    surroundings: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext

    def command(self, *argv: str) -> list[str]:
        """The command line that launches `argv`. Raises: Unfit if the launcher is not installed."""
        if self.argv and shutil.which(self.argv[0]) is None:
            raise Unfit(f"there is no {self.argv[0]}: apt-get install {self.package}")
        return [*self.argv, *self.complete(argv)]

    def with_options(self, *options: str) -> Launcher:
        """The launcher of ours with more options of `overlaykit run`."""
        *before, end = self.argv
        return replace(self, argv=(*before, *options, end))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the command line."""
        return {**os.environ, **self.variables}

    @property
    def about(self) -> str:
        """The command line and what the launcher sets up."""
        if not self.argv:
            return self.what
        variables = (f"{name}={value}" for name, value in self.variables.items())
        words = (*variables, os.path.basename(self.argv[0]), *self.argv[1:])
        return f"{' '.join(words)}: {self.what}"


def plain() -> Launcher:
    """The command without a launcher."""
    return Launcher(PLAIN, (), "", "no isolation")


def ours(*options: str, name: str = OURS, **variables: str) -> Launcher:
    """`overlaykit run` of the current environment."""
    program = os.path.join(os.path.dirname(sys.executable), "overlaykit")
    argv = (program, "run", *options, "--")
    what = "namespaces, an init, a writable layered root"
    return Launcher(name, argv, "overlaykit", what, variables)


def podman(*options: str, name: str = "podman") -> Launcher:
    """`podman run` on the files of the host."""
    limits = [
        f"--ulimit={word}={min(most, resource.getrlimit(number)[1] % _UNLIMITED)}"
        for word, (number, most) in _PODMAN_LIMITS.items()
    ]
    return Launcher(
        name,
        ("podman", "run", "--rm", "--interactive", *limits, *options, "--rootfs", "/:O"),
        "podman",
        "namespaces, cgroups, a writable layered root",
    )


def launchers() -> list[Launcher]:
    """All known launchers, installed or not, with default options; ours also with the other driver."""
    user = () if os.geteuid() == 0 else ("--map-root-user",)
    namespaces = ("--mount", "--pid", "--fork", "--net", "--uts", "--ipc")
    return [
        plain(),
        ours(),
        ours("--driver=kernel", name=KERNEL),
        Launcher("unshare", ("unshare", *user, *namespaces), "util-linux", "namespaces alone"),
        Launcher(
            "bwrap",
            ("bwrap", "--unshare-all", "--ro-bind", "/", "/"),
            "bubblewrap",
            "namespaces; the host's root, read-only, no layers",
        ),
        podman("--network=none"),
        podman("--network=none", "--cgroups=disabled", name="podman, no cgroups"),
    ]


def installed() -> list[Launcher]:
    """The installed launchers."""
    return [one for one in launchers() if not one.argv or shutil.which(one.argv[0])]


def crun(directory: str) -> Launcher:
    """`crun run` of a bundle (OCI runtime specification); each command has one below `directory`."""
    numbers = itertools.count()

    def bundle(argv: Sequence[str]) -> Sequence[str]:
        if os.geteuid() != 0:
            raise Unfit("the root of a container is a bind mount of the host's: run this as root")
        name = f"overlaykit-bench-{os.getpid()}-{next(numbers)}"
        path = os.path.join(directory, name)
        os.mkdir(path)
        with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as file:
            json.dump(_container(argv, os.path.join(directory, _ROOT)), file)
        return "--bundle", path, name

    return Launcher(
        "crun",
        ("crun", "run"),
        "crun",
        "namespaces, cgroups; the host's root, read-only, no layers",
        complete=bundle,
        surroundings=partial(_host_at, os.path.join(directory, _ROOT)),
    )


def _container(argv: Sequence[str], root: str) -> dict[str, object]:
    """The configuration of a container with the namespaces of the other launchers."""
    kinds = ("pid", "network", "ipc", "uts", "mount")
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(argv),
            "env": [f"PATH={os.environ.get('PATH', os.defpath)}"],
            "cwd": "/",
        },
        "root": {"path": root, "readonly": True},
        # Without the latter crun makes its devices in the host's /dev.
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }


@contextlib.contextmanager
def warm() -> Iterator[None]:
    """Have the fork server run during the block, so that views start warm; stop it if it did not run before.

    It starts here and not in the block, which waits for all processes that it starts.
    """
    before = server.status()
    command = ours("--read-only", "--network", "none").command("true")
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    try:
        yield
    finally:
        if before is None:
            server.stop()


@contextlib.contextmanager
def warm_subjects(
    measured: Iterable[tuple[Launcher, Callable[[], float]]],
) -> Iterator[Sequence[Subject]]:
    """The subjects of a workload, each a launcher and what measures it, while views start warm."""
    with warm():
        yield [
            Subject(name=launcher.name, what=launcher.about, measure=measure)
            for launcher, measure in measured
        ]


@contextlib.contextmanager
def _host_at(root: str) -> Iterator[None]:
    """Show the host's root file system at a path, read-only: a container's root is no other's."""
    os.makedirs(root, exist_ok=True)
    subprocess.run(["mount", "-o", "bind,ro", "/", root], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", root], check=True, capture_output=True)
