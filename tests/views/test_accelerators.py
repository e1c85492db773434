"""Whether KVM boots a kernel: tried once after each boot of the host. The trials here end at once."""

from __future__ import annotations

import os
import shutil

import pytest

from overlaykit import _native
from overlaykit.layers import kernels
from overlaykit.machine.kernel import Kernel
from overlaykit.views import accelerators

from ..machine import tiny_kernel
from ..posix.syscalls import MNT_DETACH, MS_BIND, MS_REC
from .fixtures import only_as
from .user import TestUser

FAILED = "KVM does not boot the kernel here: QEMU emulates the processor (TCG), which is many times slower"


@only_as("root")
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not here")
def test_kvm_is_tried_once_after_each_boot(user: TestUser) -> None:
    devices = user.directory("dev")
    _native.mount("tmpfs", devices, "tmpfs", 0)
    for name in ("null", "kvm"):
        with open(os.path.join(devices, name), "w"):
            pass
        _native.mount(os.devnull, os.path.join(devices, name), None, MS_BIND)
    _native.mount(devices, "/dev", None, MS_BIND | MS_REC)
    try:
        _tried()
        for path in ("/dev/kvm", os.path.join(devices, "kvm")):
            _native.umount2(path, 0)
        os.unlink("/dev/kvm")
        kernel = Kernel(tiny_kernel.make(user.path("other")))
        os.unlink(_memory())
        notes: list[str] = []
        assert accelerators.chosen(kernel, notes.append) == "tcg"
        assert notes == [
            FAILED.replace("KVM does not boot the kernel here", "/dev/kvm is not here")
        ]
    finally:
        for path in ("/dev", devices):
            _native.umount2(path, MNT_DETACH)


def _tried() -> None:
    kernel = Kernel(tiny_kernel.with_image(os.path.join(os.environ["HOME"], "kernel"), b""))
    notes: list[str] = []
    assert accelerators.emulated() is None
    assert accelerators.chosen(kernel, notes.append) == "tcg"
    assert notes == [FAILED]
    assert accelerators.emulated() is True
    assert accelerators.chosen(kernel, notes.append) == "tcg"
    assert notes == [FAILED]
    with open(_memory(), encoding="ascii") as file:
        boot, _ = file.read().split()
    for damaged in ("of-another-boot kvm", "half"):
        with open(_memory(), "w", encoding="ascii") as file:
            file.write(damaged)
        assert accelerators.emulated() is None
    assert accelerators.chosen(kernel, notes.append) == "tcg"
    assert notes == [FAILED, FAILED]
    with open(_memory(), "w", encoding="ascii") as file:
        file.write(f"{boot} kvm")
    assert accelerators.chosen(kernel, notes.append) == "kvm"
    assert accelerators.emulated() is False


def _memory() -> str:
    return os.path.join(kernels.place()[1], f"accelerator-{tiny_kernel.RELEASE}")
