"""Try each system once before the run, to leave out those that cannot be mounted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

from overlaykit.bench.failure import FAILURES, reason
from overlaykit.bench.results import LeftOut
from overlaykit.bench.systems.system import Layers, System


def try_out(systems: Sequence[System], directory: str) -> tuple[list[System], list[LeftOut]]:
    """The systems that show an empty layer, and the others with the reason."""
    able, left_out = [], []
    for system in systems:
        own = tempfile.mkdtemp(dir=directory)
        lower = os.path.join(own, "lower")
        os.mkdir(lower)
        try:
            with (
                system.over(Layers(lowers=(lower,), directory=own, written_to=True)) as show,
                show(),
            ):
                pass
        except FAILURES as error:
            left_out.append(LeftOut(system=system.name, workload="", why=reason(error, own)))
        else:
            able.append(system)
    return able, left_out
