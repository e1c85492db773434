"""Debian's kernels, and guests that run commands of this checkout on them.

The packages are fetched through the mirror of the machine's apt sources and unpacked into
$XDG_CACHE_HOME/overlaykit/kernels. They are never installed. To get newer ones, remove the directory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Final

from overlaykit.errors import Error
from overlaykit.layers.kernels import unpack
from overlaykit.machine import boot, guest
from overlaykit.machine.kernel import Kernel

ROOT: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SUITES: Final[Mapping[str, str]] = {"6.1": "bookworm", "6.12": "trixie"}
"""The kernels by their version, and the releases of Debian that have them."""

VARIABLES: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/var/tmp",  # on the disk: an overlay takes no uppers on an overlay
    "LANG": "C.UTF-8",
}
"""The environment of a guest's command."""

_TRIAL_SECONDS: Final = 15


class UnknownKernel(Error):
    message = "there is no kernel {0} to test; choose one of " + ", ".join(SUITES)


def kernel(version: str) -> Kernel:
    """The kernel of that version, fetched if it is not in the cache.

    Raises: UnknownKernel; the errors of PrivateApt; OSError.
    """
    if version not in SUITES:
        raise UnknownKernel(version)
    place = os.path.join(_cache(), SUITES[version])
    if not os.path.isdir(place):
        with tempfile.TemporaryDirectory(dir=_cache()) as directory:
            unpack(SUITES[version], directory)
            try:
                os.rename(os.path.join(directory, "kernel"), place)
            except OSError:  # another process has fetched it as well
                if not os.path.isdir(place):
                    raise
    return Kernel(place)


def machine(version: str) -> boot.Machine:
    """A machine with the kernel: under KVM where that boots it, which is tried once after each boot of the host."""
    found = kernel(version)
    tcg = boot.Machine(kernel=found, init=boot.INIT, accelerator="tcg")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return tcg
    kvm = tcg.replace(accelerator="kvm")
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        answer = os.path.join(_cache(), f"kvm-{file.read().strip()}-{found.release}")
    if not os.path.exists(answer):
        works = boot.trial(kvm, os.path.join(_cache(), "trial.log"), _TRIAL_SECONDS)
        with open(answer, "w", encoding="ascii") as file:
            file.write("works" if works else "hangs")
    with open(answer, encoding="ascii") as file:
        return kvm if file.read() == "works" else tcg


def run(
    version: str,
    *arguments: str,
    output: Callable[[bytes], object],
    log: str,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    threads: boot.Threads = "multi",
) -> boot.End:
    """Run a command in the checkout, on that kernel. Raises what `kernel` and `boot.run` raise."""
    variables = {**VARIABLES, **(environment or {})}
    command = guest.Command(arguments, ROOT, variables)
    hardware = machine(version).replace(threads=threads)
    return boot.run(hardware, command, output=output, log=log, seconds=seconds)


def _cache() -> str:
    top = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.join(top, "overlaykit", "kernels")
    os.makedirs(path, exist_ok=True)
    return path
