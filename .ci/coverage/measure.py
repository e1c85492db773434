"""Measure the branch coverage of overlaykit/ over a run of the tests, and hold it against .ci/coverage.toml.

usage: measure.py [--update] [PYTEST ARGUMENT...]

Every process of the run counts: daemons, forks, init (record.py). The figure of a room is the percentage of its
statements and branches that ran. The run fails if the total or a room is below its floor by more than the allowance.
`--update` raises the floors to the figures of this run. The last line is pytest's summary.
"""

from __future__ import annotations

import contextlib
import glob
import json
import marshal
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import tomllib
import zlib
from collections import Counter
from collections.abc import Iterator

import coverage
import coverage.tracer
import record

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGE = os.path.join(ROOT, "overlaykit")
FLOORS = os.path.join(ROOT, ".ci", "coverage.toml")
Arcs = dict[str, set[tuple[int, int]]]


@contextlib.contextmanager
def recording() -> Iterator[str]:
    """Let each Python of .venv record its arcs in a new directory, on a disk that all users reach."""
    directory = tempfile.mkdtemp(prefix="overlaykit-coverage-", dir="/var/tmp")
    os.chmod(directory, 0o1777)  # tests run as several users
    with open(os.path.join(directory, "window"), "wb") as file:
        file.truncate(record.WINDOWS * record.WINDOW * record.SLOT)
        os.fchmod(file.fileno(), 0o666)
    hook = os.path.join(site.getsitepackages()[0], "overlaykit_coverage.pth")
    names = {"__name__": "overlaykit_coverage"}
    found = os.stat(directory)
    arguments = (
        directory,
        (found.st_dev, found.st_ino),
        PACKAGE + os.sep,
        coverage.tracer.__file__,
    )
    with open(hook, "w") as file:
        file.write(
            f"import os; names = {names}; path = {record.__file__!r}; os.path.isdir({directory!r})"
            f" and [exec(compile(open(path).read(), path, 'exec'), names), names['start']{arguments}]\n"
        )
    try:
        yield directory
    finally:
        os.unlink(hook)
        shutil.rmtree(directory)


def records(directory: str) -> Iterator[bytes]:
    """What the processes left: a file each, or a slot of the window."""
    for name in os.listdir(directory):
        if name != "window":
            with open(os.path.join(directory, name), "rb") as file:
                yield file.read()
    with open(os.path.join(directory, "window"), "rb") as file:
        at = 0
        with contextlib.suppress(OSError):  # ENXIO: the rest is a hole
            while True:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // record.SLOT * record.SLOT
                file.seek(at)
                length = int.from_bytes(file.read(4), "little")
                if length:
                    yield file.read(length)
                at += record.SLOT


def arcs_of(directory: str) -> Arcs:
    """The arcs that any process took, by file."""
    arcs: Arcs = {}
    for packed in records(directory):
        try:
            taken = marshal.loads(zlib.decompress(packed))
        except (
            ValueError,
            EOFError,
            TypeError,
            zlib.error,
        ):  # the process was killed while it wrote
            continue
        for name, numbers in taken.items():
            arcs.setdefault(name, set()).update(map(_arc, numbers))
    return arcs


def _arc(packed: int) -> tuple[int, int]:
    """An arc as coverage/ctracer/tracer.c packs it (CTracer_record_pair): two line numbers and their signs."""
    start, end = packed & 0xFFFFFFF, packed >> 28 & 0xFFFFFFF
    return -start if packed >> 56 & 1 else start, -end if packed >> 57 & 1 else end


def percentages(arcs: Arcs, report: str) -> dict[str, float]:
    """The percentage of each room, and of all as `total`; writes coverage.py's JSON report."""
    measured = coverage.Coverage(data_file=None, branch=True, config_file=False, source=[PACKAGE])
    measured.get_data().add_arcs(arcs)
    measured.get_data().touch_files(glob.glob(f"{PACKAGE}/**/*.py", recursive=True))
    measured.json_report(outfile=report)
    with open(report) as file:
        files = json.load(file)["files"]
    parts, covered = Counter[str](), Counter[str]()
    for name, found in files.items():
        path = os.path.relpath(os.path.join(ROOT, name), PACKAGE)
        room = os.path.dirname(path).split(os.sep)[0] or "ground floor"
        summary = found["summary"]
        for key in (room, "total"):
            parts[key] += summary["num_statements"] + summary["num_branches"]
            covered[key] += summary["covered_lines"] + summary["covered_branches"]
    return {
        room: round(100 * covered[room] / parts[room], 1) for room in sorted(parts) if parts[room]
    }


def run_tests(arguments: list[str]) -> tuple[int, str]:
    """Run pytest; its status and its last line."""
    workers = f"--numprocesses={(os.cpu_count() or 1) + 1}"  # as `make test`
    command = [sys.executable, "-m", "pytest", workers, "--dist=loadgroup", *arguments]
    last = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        while text := tests.stdout.read(1):  # pytest shows its progress within a line
            sys.stdout.write(text)
            sys.stdout.flush()
            last = text if last.endswith("\n") else last + text
    return tests.returncode, last


def main(arguments: list[str]) -> int:
    update = "--update" in arguments
    arguments = [argument for argument in arguments if argument != "--update"]
    with open(FLOORS, "rb") as file:
        settings = tomllib.load(file)
    floors: dict[str, float] = settings["floors"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # which cleans up
    with recording() as directory:
        status, summary = run_tests(arguments or settings["tests"])
        found = percentages(arcs_of(directory), os.path.join(ROOT, "coverage.json"))
    low = {
        room for room, floor in floors.items() if found.get(room, 0) < floor - settings["allowance"]
    }
    print("branch coverage")
    for room, percent in found.items():
        mark = "  too low" if room in low else ""
        print(f"  {room:12} {percent:5.1f} %  (floor {floors.get(room, 0)}){mark}")
    print(summary, end="")
    if update and status == 0:
        _raise_floors({room: max(percent, floors.get(room, 0)) for room, percent in found.items()})
        return 0
    return status or (1 if low else 0)


def _raise_floors(floors: dict[str, float]) -> None:
    """Replace the table of floors, which is the last of the file."""
    with open(FLOORS) as file:
        head = file.read().partition("[floors]\n")[0]
    lines = [f"{json.dumps(room) if ' ' in room else room} = {floors[room]}\n" for room in floors]
    with open(FLOORS, "w") as file:
        file.write(head + "[floors]\n" + "".join(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
