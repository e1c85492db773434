"""What a run of the benchmark found: plain data, written as JSON and read back, from which every report is made."""

from __future__ import annotations

import statistics

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured. `memory`: bytes. `programs`: the version of each that took part, by name."""

    kernel: str
    processor: str
    cores: int
    memory: int
    python: str
    file_system: str
    """The type of the one that holds the layers."""
    uid: int
    programs: dict[str, str] = {}


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one system paid for one workload, once a round.

    `values`: in `unit`, for one operation, one value a round. `requests`: how many FUSE requests of each kind a whole
    round caused (overlaykit's own counters; None for the other systems). `written`: how many bytes its daemon has
    written meanwhile, with answers to the kernel; None likewise.
    """

    workload: str
    system: str
    unit: str
    """`s` (seconds an operation), `B/s`, `1/s`, `B`, `x` (a factor)."""
    more_is_better: bool = False
    operations: int = 1
    values: tuple[float, ...]
    requests: dict[str, int] | None = None
    written: int | None = None

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


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Workloads that are one and the same but for a size: how the cost grows with it.

    `points`: the size and the name of the workload, smallest first.
    """

    name: str
    axis: str
    """What the size is: `lowers`, `names in the directory`, `client processes`, `views`."""
    points: tuple[tuple[int, str], ...]


class LeftOut(msgspec.Struct, frozen=True):
    """What was not measured, and why.

    `workload` is empty if a system took no part at all, `system` if nobody could do a workload.
    """

    system: str
    workload: str
    why: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. `workloads`: name -> what it does, in the order they were run. `baseline`: a system's name."""

    machine: Machine
    started: int
    """Seconds since the epoch."""
    baseline: str
    rounds: int
    systems: dict[str, str]
    """Name -> the command that mounts it, or what it is."""
    workloads: dict[str, str]
    costs: tuple[Cost, ...]
    series: tuple[Series, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def cost(self, workload: str, system: str) -> Cost | None:
        """None where it was left out."""
        for cost in self.costs:
            if cost.workload == workload and cost.system == system:
                return cost
        return None

    def ratio(self, workload: str, system: str) -> float | None:
        """The median as a multiple of the baseline's (of its inverse where more is better); None if either is out."""
        ours, base = self.cost(workload, system), self.cost(workload, self.baseline)
        if ours is None or base is None or not ours.median or not base.median:
            return None
        if ours.more_is_better:
            return base.median / ours.median
        return ours.median / base.median
