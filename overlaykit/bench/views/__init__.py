"""The cost of isolated programs, in views and with other launchers.

May import: `bench.workload`, `bench.systems`, `overlaykit.views`. Start reading at `launchers` (the subjects) and
`idle` (their idle processes); `start`, `memory`, `disk`, `processor`, `changes`, `ports` and `comparison` are the
workloads.
"""

from __future__ import annotations

from overlaykit.bench.views import changes, comparison, disk, memory, ports, processor, start
from overlaykit.bench.workload import Workload


def workloads(scale: float = 1.0) -> list[Workload]:
    """All workloads, in the order of the report. A scale below 1.0 means less work and fewer views."""
    return [
        *start.workloads(scale),
        *memory.workloads(scale),
        *disk.workloads(),
        *processor.workloads(scale),
        *changes.workloads(scale),
        *ports.workloads(scale),
        *comparison.section(scale),
    ]
