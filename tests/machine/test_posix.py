"""Files in a machine behave as POSIX promises: the table of tests/posix, on layers through virtiofs below its disk."""

from __future__ import annotations

import json
import os
import sys

import pytest

from ..posix.guest import DIFFERENCES, chosen, write
from .run import Run

pytestmark = [pytest.mark.xdist_group("guests"), pytest.mark.long]

NAME = "overlaykit-posix"


def test_programs_in_a_machine_find_what_posix_promises(
    kernel: str, tmp_path: os.PathLike[str]
) -> None:
    layers = write(os.fspath(tmp_path), NAME)
    status, output, errors = Run(
        *(kernel, "--memory", "512m", *(word for one in layers for word in ("-l", one))),
        *("-l", "host", "--", sys.executable, "-m", "tests.posix.guest", f"/{NAME}"),
    ).end()
    assert (status, errors) == (0, b"")
    found = json.loads(output)
    unnamed = {name: why for name, why in found.items() if name not in DIFFERENCES}
    assert not unnamed, "\n\n".join(f"{name}: {why}" for name, why in unnamed.items())
    assert DIFFERENCES.keys() <= found.keys()
    assert len(chosen()) > 200
