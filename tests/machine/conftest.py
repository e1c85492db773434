"""Commands in machines, by the command line. The tests share the processors that QEMU takes: one worker runs them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from overlaykit.machine import emulator
from overlaykit.views import accelerators
from overlaykit.views import machine as machines

from ..kernels import rig


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The directory of the guests' kernel, that of the tests of other kernels, with which KVM is not tried again."""
    if os.geteuid() != 0:
        pytest.skip("--vm takes root")
    if emulator.missing():
        pytest.skip("QEMU is not here")
    assert rig.SUITES["6.1"] == machines.SUITE
    machine = rig.machine("6.1")
    data = str(tmp_path_factory.mktemp("data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", data)
        accelerators.remember(machine.kernel, machine.accelerator)
        yield os.path.dirname(os.path.dirname(machine.kernel.image))


@pytest.fixture(scope="session")
def loadable(kernel: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same as the store keeps it."""
    directory = str(tmp_path_factory.mktemp("kernel") / "kernel")
    shutil.copytree(kernel, directory, symlinks=True)
    machines.reduce(directory)
    return directory
