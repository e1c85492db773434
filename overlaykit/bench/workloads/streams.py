"""Bulk data with fio: sequential and random, buffered and direct, one job and eight."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from overlaykit.bench.workload import Unit, scaled
from overlaykit.bench.workloads import material
from overlaykit.bench.workloads.files import FileWorkload

_SIZE: Final = 512 << 20
_LEAST: Final = 8 << 20
_BLOCK: Final = {"seq": 128 << 10, "rand": 4 << 10}
_PART_AT_RANDOM: Final = 8
"""Random workloads move this much less data, because their blocks are smaller."""
_LOOPS: Final = 8
"""Repetitions of a warm sequential read: a single one is too short for a clock of milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One combination of the parameters."""

    order: Literal["seq", "rand"]
    direction: Literal["read", "write"]
    cold: bool
    direct: bool
    jobs: int

    @property
    def name(self) -> str:
        temperature = () if self.direction == "write" else ("cold" if self.cold else "warm",)
        path = "direct" if self.direct else "buffered"
        return "-".join((f"{self.order}{self.direction}", *temperature, path, str(self.jobs)))


def kinds() -> Iterator[Kind]:
    """All combinations; writes are neither cold nor warm."""
    for direction in ("read", "write"):
        for order in ("seq", "rand"):
            for cold in (False, True) if direction == "read" else (False,):
                for direct in (False, True):
                    for jobs in (1, 8):
                        yield Kind(
                            order=order, direction=direction, cold=cold, direct=direct, jobs=jobs
                        )


class Stream(FileWorkload):
    """The bytes a second of all jobs together; writes include the final fsync."""

    unit: Unit = "B/s"
    more_is_better = True
    operations = 1
    programs = ("fio",)

    def __init__(self, kind: Kind, scale: float) -> None:
        self.name = f"fio/{kind.name}"
        self.cold = kind.cold
        self.written_to = kind.direction == "write"
        self._kind = kind
        self._size = scaled(_SIZE, scale, least=_LEAST) // kind.jobs
        self._moved = self._size // (_PART_AT_RANDOM if kind.order == "rand" else 1)
        self.what = (
            f"{kind.direction} {self._moved * kind.jobs >> 20:,} MiB"
            f" {'in sequence' if kind.order == 'seq' else 'at random'},"
            f" {_BLOCK[kind.order] >> 10} KiB at a time,"
            f" {'past the caches' if kind.direct else 'through the caches'}"
            f"{', which are empty' if kind.cold else ''}, {kind.jobs} job{'s' if kind.jobs > 1 else ''}"
        )

    def make(self, lowers: Sequence[str]) -> None:
        if self._kind.direction == "read":
            for job in range(self._kind.jobs):
                material.write_one(f"{lowers[0]}/data.{job}", self._size)

    def prepare(self, root: str) -> None:
        if self._kind.direction == "read" and not self._kind.cold:
            for job in range(self._kind.jobs):
                with open(f"{root}/data.{job}", "rb") as file:
                    while file.read(1 << 20):
                        pass

    def run(self, root: str) -> float:
        done = subprocess.run(self._command(root), check=True, capture_output=True)
        jobs = json.loads(done.stdout)["jobs"]
        return float(sum(job[self._kind.direction]["bw_bytes"] for job in jobs))

    def _command(self, root: str) -> list[str]:
        kind = self._kind
        command = [
            "fio",
            f"--directory={root}",
            f"--rw={'rand' if kind.order == 'rand' else ''}{kind.direction}",
            f"--bs={_BLOCK[kind.order]}",
            f"--size={self._size}",
            f"--direct={int(kind.direct)}",
            "--ioengine=psync",
            "--invalidate=0",  # the caches are as `cold` says
            f"--allow_file_create={int(kind.direction == 'write')}",
            "--group_reporting",
            "--output-format=json",
        ]
        if kind.order == "rand":
            command.append(f"--io_size={self._moved}")
        elif kind.direction == "read" and not kind.cold:
            command.append(f"--loops={_LOOPS}")
        if kind.direction == "write":
            command.append("--end_fsync=1")
        for job in range(kind.jobs):
            command += [f"--name=job-{job}", f"--filename=data.{job}"]
        return command
