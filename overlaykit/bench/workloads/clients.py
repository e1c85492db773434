"""Several client processes at once."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from overlaykit.bench.workload import Point, Unit, scaled
from overlaykit.bench.workloads import client, material
from overlaykit.bench.workloads.files import FileWorkload

NUMBERS: Final = (1, 2, 4, 8)


class Clients(FileWorkload):
    """Read files for the first time, divided among client processes."""

    unit: Unit = "1/s"
    more_is_better = True

    def __init__(self, clients: int, scale: float) -> None:
        self.operations = scaled(4_000, scale, least=NUMBERS[-1])
        self.name = f"clients/read {clients}"
        self.what = (
            f"read {self.operations:,} files of 4 KiB for the first time,"
            f" by {clients} process{'es' if clients > 1 else ''} at once"
        )
        self.point = Point(series="read by clients", axis="client processes", size=clients)
        self._clients = clients
        self._names = material.spread(self.operations)

    def make(self, lowers: Sequence[str]) -> None:
        material.write(lowers[0], self._names)

    def run(self, root: str) -> float:
        with contextlib.ExitStack() as started:
            processes = []
            for number in range(self._clients):
                process = started.enter_context(_client())
                names = self._names[number :: self._clients]
                _send(process, json.dumps([f"{root}/{name}" for name in names]))
                processes.append(process)
            for process in processes:
                _await(process, "ready")
            began = time.perf_counter()
            for process in processes:
                _send(process, "go")
            for process in processes:
                _await(process, "done")
            return self.operations / (time.perf_counter() - began)


@contextlib.contextmanager
def _client() -> Iterator[subprocess.Popen[str]]:
    """A client process, killed and reaped at the end."""
    argv = [sys.executable, "-I", "-S", client.__file__]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _send(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    print(line, file=process.stdin, flush=True)


def _await(process: subprocess.Popen[str], word: str) -> None:
    """Wait for a word. Raises: CalledProcessError with the error output if the client ends instead."""
    assert process.stdout is not None
    if process.stdout.readline().strip() != word:
        _, errors = process.communicate()
        raise subprocess.CalledProcessError(
            process.returncode, process.args, stderr=errors.encode()
        )
