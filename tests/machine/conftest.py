"""Commands in machines, by the command line. The tests share the processors that QEMU takes: one worker runs them."""

from __future__ import annotations

import os
import shutil

import pytest

from overlaykit.views import machine as machines

from ..kernels import rig


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of the guests' kernel, the one of the tests of other kernels: nothing is fetched twice."""
    if os.geteuid() != 0:
        pytest.skip("--vm takes root")
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("QEMU is not here")
    del tmp_path_factory
    image = rig.kernel("6.1").image
    assert rig.SUITES["6.1"] == machines.SUITE
    return os.path.dirname(os.path.dirname(image))
