"""The suites of this checkout on other kernels, for `make proofs`: under emulation they take long."""

from __future__ import annotations

import os

import pytest

from . import rig, suites

pytestmark = [pytest.mark.xdist_group("guests"), pytest.mark.usefixtures("oldest")]

_DEADLINE = 4 * 3600


@pytest.mark.parametrize("suite", suites.SUITES)
@pytest.mark.parametrize("version", rig.SUITES)
def test_a_suite_passes_on_the_kernel(version: str, suite: str, tmp_path: os.PathLike[str]) -> None:
    output: list[bytes] = []
    end = rig.run(
        version,
        *suites.command(suite),
        output=output.append,
        log=os.path.join(tmp_path, "log"),
        seconds=_DEADLINE,
        environment=suites.variables(),
        threads=suites.threads(suite),
    )
    assert (end.status, end.disk_full) == (0, False), b"".join(output).decode(errors="replace")
