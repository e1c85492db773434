"""The suites of this checkout on other kernels, for `make proofs`: under emulation they take hours."""

from __future__ import annotations

import os
import sys

import pytest

from . import rig

pytestmark = pytest.mark.xdist_group("guests")

SUITES = ("posix", "native", "namespace", "views", "oracle")
_DEADLINE = 4 * 3600
_EXAMPLES = 50
"""Programs that each test of the oracle makes."""


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("version", rig.SUITES)
def test_a_suite_passes_on_the_kernel(version: str, suite: str, tmp_path: os.PathLike[str]) -> None:
    output: list[bytes] = []
    end = rig.run(
        version,
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"),
        *("--dist=loadgroup", f"tests/{suite}"),
        output=output.append,
        log=os.path.join(tmp_path, "log"),
        seconds=_DEADLINE,
        environment={"OVERLAYKIT_ORACLE_EXAMPLES": str(_EXAMPLES)},
    )
    assert (end.status, end.disk_full) == (0, False), b"".join(output).decode(errors="replace")
