"""What isolated programs cost: the claims that containers are sold on, measured on views and on other launchers.

May import: `bench.workload`, `bench.systems`, `overlaykit.views`. Start reading at `launchers` (who is compared) and
`residents` (keeping what they launch running); `start`, `memory`, `disk`, `processor` and `ports` say what is measured.
"""

from __future__ import annotations

from overlaykit.bench.views import disk, memory, ports, processor, start
from overlaykit.bench.workload import Workload


def workloads(scale: float = 1.0) -> list[Workload]:
    """All, in the order in which they are run and shown; at less than 1.0 with less to do and fewer views."""
    return [
        *start.workloads(),
        *memory.workloads(scale),
        *disk.workloads(),
        *processor.workloads(scale),
        *ports.workloads(scale),
    ]
