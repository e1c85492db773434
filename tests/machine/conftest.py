"""Commands in machines, by the command line. The tests share the processors that QEMU takes: one worker runs them."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from overlaykit.machine import emulator
from overlaykit.rmtree import rmtree_path
from overlaykit.views import accelerators
from overlaykit.views import machine as machines

from ..kernels import rig
from ..views.user import ORDINARY, PATH


@pytest.fixture(scope="session")
def kernel() -> str:
    """The directory of the guests' kernel, that of the tests of other kernels."""
    if os.geteuid() != 0:
        pytest.skip("--vm takes root")
    if emulator.missing():
        pytest.skip("QEMU is not here")
    assert rig.SUITES["6.1"] == machines.SUITE
    machine = rig.machine("6.1")
    return os.path.dirname(os.path.dirname(machine.kernel.image))


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """A store of each test's own, which says already whether KVM works."""
    if os.geteuid() != 0 or emulator.missing():
        return  # `kernel` says so
    machine = rig.machine("6.1")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    accelerators.remember(machine.kernel, machine.accelerator)


@pytest.fixture(scope="session")
def loadable(kernel: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same as the store keeps it."""
    directory = str(tmp_path_factory.mktemp("kernel") / "kernel")
    shutil.copytree(kernel, directory, symlinks=True)
    machines.reduce(directory)
    return directory


@pytest.fixture
def ordinary(loadable: str) -> Iterator[tuple[str, dict[str, object]]]:
    """A kernel that an ordinary user reads, and what makes a `Run` that user's."""
    home = tempfile.mkdtemp(prefix="overlaykit-test-", dir="/var/tmp")
    kernel = shutil.copytree(loadable, os.path.join(home, "kernel"))
    os.chown(home, ORDINARY, ORDINARY)
    os.chown(kernel, ORDINARY, ORDINARY)
    variables = {
        "HOME": home,
        "PATH": PATH,
        "XDG_RUNTIME_DIR": home,
        "OVERLAYKIT_SERVER": "off",
    }
    user = {"user": ORDINARY, "group": ORDINARY, "extra_groups": [], "env": variables, "cwd": home}
    yield kernel, user
    rmtree_path(home)
