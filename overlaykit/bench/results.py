"""The results of a run: plain data, written as JSON and read back, the source of every report."""

from __future__ import annotations

import statistics

from overlaykit.record import Record


class Machine(Record, kw_only=True):
    """The machine of a run. `memory`: bytes. `programs`: name -> version."""

    kernel: str
    processor: str
    cores: int
    memory: int
    python: str
    file_system: str
    """The type of the file system that holds the layers."""
    uid: int
    programs: dict[str, str] = {}  # noqa: RUF012


class Cost(Record, kw_only=True):
    """The cost of one workload on one system.

    `values`: in `unit`, for one operation, one value a round. `requests`: the FUSE requests of one round that reached
    Python, by kind, from overlaykit's own counters (None for the other systems). `native`: those that native code
    answered (None likewise). `written`: the bytes that the daemon writes in that round,
    replies to the kernel included (None likewise).
    """

    workload: str
    system: str
    unit: str
    """`s` (seconds an operation), `B/s`, `1/s`, `B`, `x` (a factor)."""
    more_is_better: bool = False
    operations: int = 1
    values: tuple[float, ...]
    requests: dict[str, int] | None = None
    native: dict[str, int] | None = None
    written: int | None = None

    @property
    def in_python(self) -> int:
        """The FUSE requests that reached Python."""
        return sum((self.requests or {}).values())

    @property
    def in_native(self) -> int:
        """The FUSE requests that native code answered."""
        return sum((self.native or {}).values())

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """The distance between the first and the third quartile; 0 for one round."""
        if len(self.values) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return third - first


class Series(Record, kw_only=True):
    """Workloads that differ in a size alone: a curve of the cost.

    `points`: the size and the name of the workload, smallest first.
    """

    name: str
    axis: str
    """What the size counts: `lowers`, `names in the directory`, `client processes`, `views`."""
    points: tuple[tuple[int, str], ...]


class LeftOut(Record):
    """A measurement that a run skipped, and the reason.

    An empty `workload` means all workloads of the system, an empty `system` all systems.
    """

    system: str
    workload: str
    why: str


class Report(Record, kw_only=True):
    """A whole run. `workloads`: name -> description, in the order of the run. `baseline`: a system's name."""

    machine: Machine
    started: int
    """Seconds since the epoch."""
    baseline: str
    rounds: int
    systems: dict[str, str]
    """Name -> the command that mounts it, or a description."""
    workloads: dict[str, str]
    costs: tuple[Cost, ...]
    series: tuple[Series, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def cost(self, workload: str, system: str) -> Cost | None:
        """The cost of a workload on a system; None if it was left out."""
        for cost in self.costs:
            if cost.workload == workload and cost.system == system:
                return cost
        return None

    def ratio(self, workload: str, system: str) -> float | None:
        """The median divided by the baseline's, or its inverse where more is better; None if either is left out."""
        ours, base = self.cost(workload, system), self.cost(workload, self.baseline)
        if ours is None or base is None or not ours.median or not base.median:
            return None
        if ours.more_is_better:
            return base.median / ours.median
        return ours.median / base.median
