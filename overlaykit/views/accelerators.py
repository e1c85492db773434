"""Whether KVM boots a kernel here: tried once after each boot of the host, and remembered beside the kernels."""

from __future__ import annotations

import glob
import os
import tempfile
from typing import TYPE_CHECKING, Final

from overlaykit.layers import kernels
from overlaykit.machine import boot

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlaykit.machine.kernel import Kernel

_TRIAL_SECONDS: Final = 15
_MEMORY: Final = 256 << 20
_PREFIX: Final = "accelerator-"


def chosen(kernel: Kernel, note: Callable[[str], None]) -> boot.Accelerator:
    """KVM where it boots the kernel, else emulation, which is noted when it is found. Raises: OSError, NoQemu."""
    _, directory = kernels.place()
    path = os.path.join(directory, _PREFIX + kernel.release)
    known = _read(path)
    if known is not None:
        return known
    works, why = False, "/dev/kvm is not here"
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        why = "KVM does not boot the kernel here"
        with tempfile.NamedTemporaryFile() as log:
            machine = boot.Machine(
                kernel=kernel, init=boot.INIT, accelerator="kvm", processors=1, memory=_MEMORY
            )
            works = boot.trial(machine, log.name, _TRIAL_SECONDS)
    found: boot.Accelerator = "kvm" if works else "tcg"
    if not works:
        note(f"{why}: QEMU emulates the processor (TCG), which is many times slower")
    remember(kernel, found)
    return found


def remember(kernel: Kernel, accelerator: boot.Accelerator) -> None:
    """Keep what a trial has found, until the host boots again. Raises: OSError."""
    _, directory = kernels.place()
    os.makedirs(directory, 0o700, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as new:
        new.write(f"{_boot()} {accelerator}")
    os.rename(new.name, os.path.join(directory, _PREFIX + kernel.release))


def emulated() -> bool | None:
    """Whether the last trial after this boot found that KVM does not work; None: there was none."""
    _, directory = kernels.place()
    answers = [_read(path) for path in glob.glob(f"{glob.escape(directory)}/{_PREFIX}*")]
    known = [one for one in answers if one is not None]
    return "kvm" not in known if known else None


def _read(path: str) -> boot.Accelerator | None:
    try:
        with open(path, encoding="ascii") as file:
            of, found = file.read().split()
    except (OSError, ValueError):
        return None
    if of != _boot():
        return None
    return "kvm" if found == "kvm" else "tcg"


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
