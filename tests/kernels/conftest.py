"""Guests with other kernels. The tests share one machine: QEMU takes both processors."""

from __future__ import annotations

import os
import shutil

import pytest

from overlaykit.machine.boot import Machine

from . import rig

collect_ignore_glob = (
    [] if "OVERLAYKIT_PROOFS" in os.environ else ["test_ends.py", "test_suites.py"]
)


@pytest.fixture(scope="session")
def oldest() -> Machine:
    """A machine with the oldest kernel that the README promises. `make setup-tests` installs QEMU on Debian."""
    if os.geteuid() != 0:
        pytest.skip("virtiofsd needs root")
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("QEMU is not here")
    return rig.machine("6.1")
