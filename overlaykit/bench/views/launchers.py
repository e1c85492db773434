"""Ways to run a command apart from the rest of the machine, and the one that isolates nothing, to compare them with."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass

from overlaykit.bench.systems.known import PLAIN
from overlaykit.bench.workload import Unfit


@dataclass(frozen=True, slots=True)
class Launcher:
    """A command to put before another one. `package`: the Debian package that has it; `what`: what it sets up."""

    name: str
    argv: tuple[str, ...]
    package: str
    what: str

    def command(self, *argv: str) -> list[str]:
        """What launches `argv`. Raises Unfit if the launcher is not installed."""
        if self.argv and shutil.which(self.argv[0]) is None:
            raise Unfit(f"there is no {self.argv[0]}: apt-get install {self.package}")
        return [*self.argv, *argv]

    @property
    def about(self) -> str:
        """The command as a user would write it, and what it sets up."""
        if not self.argv:
            return self.what
        return f"{' '.join((os.path.basename(self.argv[0]), *self.argv[1:]))}: {self.what}"


def plain() -> Launcher:
    """The command by itself."""
    return Launcher(PLAIN, (), "", "nothing around the command")


def ours(*options: str, name: str = "overlaykit") -> Launcher:
    """`overlaykit run`, that of the interpreter that runs this."""
    program = os.path.join(os.path.dirname(sys.executable), "overlaykit")
    argv = (program, "run", *options, "--")
    return Launcher(
        name, argv, "overlaykit", "namespaces, an init, a layered root that can be written to"
    )


def launchers() -> list[Launcher]:
    """All that are known, whether installed or not, as they are when nobody asks for anything special."""
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
            "namespaces, cgroups, a layered root that can be written to",
        ),
    ]


def installed() -> list[Launcher]:
    """Those of `launchers` that are here."""
    return [one for one in launchers() if not one.argv or shutil.which(one.argv[0])]
