"""What a view may use of the machine: memory, processors, processes, disk bandwidth."""

from __future__ import annotations

from overlaykit.errors import Error
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

UNLIMITED: Final = -1

_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LEAST_MEMORY: Final = 512 << 10
"""Bytes. Less, and no command starts."""
_LEAST_CPUS: Final = 0.01
"""1 ms in each period of 100 ms (Documentation/scheduler/sched-bwc.rst)."""
_WEIGHTS: Final = range(1, 10001)
"""Documentation/admin-guide/cgroup-v2.rst, io.weight."""


class BadLimit(Error):
    message = "{0} {1}: give {2}"


class Limits(Record, kw_only=True):
    """Limits of a view; None: no own limit. Raises: BadLimit."""

    memory: int | None = None
    """Bytes. A view that needs more is killed."""
    memory_swap: int | None = None
    """Bytes of memory and swap together; UNLIMITED: as much swap as there is. By default twice `memory`."""
    cpus: float | None = None
    """How many processors' time."""
    cpuset: str | None = None
    """Which processors: "0-2,5"."""
    pids: int | None = None
    """The number of processes and threads, init and the command included; UNLIMITED as None."""
    io_weight: int | None = None
    """The share of disk bandwidth among others, from 1 to 10000; 100 is usual. For BFQ more than 1000 is 1000."""

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory < _LEAST_MEMORY:
            raise BadLimit("--memory", self.memory, f"{_LEAST_MEMORY >> 10}k at least")
        if self.memory_swap is not None and self.memory_swap != UNLIMITED:
            if self.memory is None:
                raise BadLimit("--memory-swap", self.memory_swap, "--memory as well")
            if self.memory_swap < self.memory:
                raise BadLimit("--memory-swap", self.memory_swap, "--memory and more, or -1")
        if self.cpus is not None and not self.cpus >= _LEAST_CPUS:
            raise BadLimit("--cpus", self.cpus, f"{_LEAST_CPUS} at least")
        if self.cpuset is not None and not _is_list(self.cpuset):
            raise BadLimit("--cpuset-cpus", self.cpuset, "processors such as 0-2,5")
        if self.pids is not None and self.pids < 1 and self.pids != UNLIMITED:
            raise BadLimit("--pids-limit", self.pids, "1 at least, or -1")
        if self.io_weight is not None and self.io_weight not in _WEIGHTS:
            raise BadLimit("--io-weight", self.io_weight, "1 to 10000")


def parse_size(option: str, text: str) -> int:
    """Bytes, as podman writes them: a number and b, k, m, g or t. Raises: BadLimit."""
    number = text.rstrip("bkmgtBKMGT")
    unit = text[len(number) :].lower()
    if number.isascii() and number.isdecimal() and unit in _UNITS:
        return int(number) * _UNITS[unit]
    raise BadLimit(option, text, "a number with b, k, m, g or t, such as 512m")


def _is_list(text: str) -> bool:
    """Whether a text is a list of processors as the kernel reads it (cpuset(7), List format)."""
    return all(
        0 < len(ends := part.split("-")) <= 2
        and all(end.isascii() and end.isdecimal() for end in ends)
        for part in text.split(",")
    )
