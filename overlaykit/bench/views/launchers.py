"""Launchers that isolate a command, and the plain command as their baseline."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass

from overlaykit.bench.systems.known import PLAIN
from overlaykit.bench.workload import Unfit


@dataclass(frozen=True, slots=True)
class Launcher:
    """A command prefix. `package`: its Debian package; `what`: what the launcher sets up."""

    name: str
    argv: tuple[str, ...]
    package: str
    what: str

    def command(self, *argv: str) -> list[str]:
        """The command line that launches `argv`. Raises: Unfit if the launcher is not installed."""
        if self.argv and shutil.which(self.argv[0]) is None:
            raise Unfit(f"there is no {self.argv[0]}: apt-get install {self.package}")
        return [*self.argv, *argv]

    @property
    def about(self) -> str:
        """The command line and what the launcher sets up."""
        if not self.argv:
            return self.what
        return f"{' '.join((os.path.basename(self.argv[0]), *self.argv[1:]))}: {self.what}"


def plain() -> Launcher:
    """The command without a launcher."""
    return Launcher(PLAIN, (), "", "no isolation")


def ours(*options: str, name: str = "overlaykit") -> Launcher:
    """`overlaykit run` of the current environment."""
    program = os.path.join(os.path.dirname(sys.executable), "overlaykit")
    argv = (program, "run", *options, "--")
    return Launcher(name, argv, "overlaykit", "namespaces, an init, a writable layered root")


def launchers() -> list[Launcher]:
    """All known launchers, installed or not, with default options."""
    user = () if os.geteuid() == 0 else ("--map-root-user",)
    namespaces = ("--mount", "--pid", "--fork", "--net", "--uts", "--ipc")
    return [
        plain(),
        ours(),
        Launcher("unshare", ("unshare", *user, *namespaces), "util-linux", "namespaces alone"),
        Launcher(
            "bwrap",
            ("bwrap", "--unshare-all", "--ro-bind", "/", "/"),
            "bubblewrap",
            "namespaces; the host's root, read-only, no layers",
        ),
        Launcher(
            "podman",
            ("podman", "run", "--rm", "--interactive", "--network=none", "--rootfs", "/:O"),
            "podman",
            "namespaces, cgroups, a writable layered root",
        ),
    ]


def installed() -> list[Launcher]:
    """The installed launchers."""
    return [one for one in launchers() if not one.argv or shutil.which(one.argv[0])]
