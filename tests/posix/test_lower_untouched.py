"""Eight processes read, write and map the same lower files at once: no write is lost, and none reaches the lower.

A well-known overlay writes into the lower when a reader holds the file open during copy-up.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import tempfile
from collections.abc import Iterator

import pytest

from .files import opened, read_file
from .harness import make_system
from .sandbox import ORDINARY_UID, Sandbox
from .systems import Stack, System

PROCESSES = 8
ROUNDS = 60
FILES = ("a", "b", "c")
CONTENT = b"." * 5000
IDENTITIES = ("root", "userns") if os.geteuid() == 0 else ("userns",)


@pytest.fixture(params=IDENTITIES)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with contextlib.closing(Sandbox(unprivileged=request.param == "userns")) as sandbox:
        yield sandbox


@pytest.fixture
def directory(sandbox: Sandbox) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="overlaykit-lower-", dir="/var/tmp") as directory:
        if sandbox.unprivileged and os.geteuid() == 0:
            os.chown(directory, ORDINARY_UID, ORDINARY_UID)
        yield directory


@pytest.mark.parametrize("name", ["kernel", "overlaykit"])
def test_no_write_of_eight_processes_is_lost_or_reaches_the_lower(
    name: str, sandbox: Sandbox, directory: str
) -> None:
    system = make_system(name, unprivileged=sandbox.unprivileged)
    sandbox.run(lambda: _check_concurrent_writes(system, os.fsencode(directory)))


def _check_concurrent_writes(system: System, directory: bytes) -> None:
    lower, upper, work, merged = (
        os.path.join(directory, name) for name in (b"lower", b"upper", b"work", b"merged")
    )
    for path in (lower, upper, work, merged):
        os.mkdir(path)
    for file in FILES:
        with open(os.path.join(lower, file.encode()), "wb") as stream:
            stream.write(CONTENT)
    system.mount(Stack((lower,), upper, work), merged)
    try:
        os.chdir(merged)
        _run_processes_at_once()
        for file in FILES:
            seen = read_file(file)
            assert len(seen) == len(CONTENT)
            assert [seen[_offset(number)] for number in range(PROCESSES)] == [ROUNDS] * PROCESSES
    finally:
        os.chdir("/")
        system.unmount(merged)
    assert {read_file(os.path.join(lower, file.encode())) for file in FILES} == {CONTENT}


def _offset(number: int) -> int:
    """The offset of the byte that this process writes in every file."""
    return number * 600


def _run_processes_at_once() -> None:
    wait, go = os.pipe()
    workers = []
    for number in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(go)
                os.read(wait, 1)
                _read_and_write(number)
                status = 0
            finally:
                os._exit(status)
        workers.append(pid)
    os.close(wait)
    os.close(go)
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * PROCESSES


def _read_and_write(number: int) -> None:
    chance = random.Random(number)
    with contextlib.ExitStack() as held:
        for round_ in range(1, ROUNDS + 1):
            for file in FILES:
                if chance.random() < 0.3:
                    held.enter_context(opened(file, chance.choice((os.O_RDONLY, os.O_RDWR))))
                if chance.random() < 0.1:
                    os.chmod(file, chance.choice((0o600, 0o644, 0o755)))
                _write(file, number, round_, mapped=chance.random() < 0.3)
                with opened(file, os.O_RDONLY) as reader:
                    assert os.pread(reader, 1, _offset(number)) == bytes([round_])


def _write(file: str, number: int, value: int, *, mapped: bool) -> None:
    with opened(file, os.O_RDWR) as fd:
        if not mapped:
            os.pwrite(fd, bytes([value]), _offset(number))
            return
        with mmap.mmap(fd, 0) as memory:
            memory[_offset(number)] = value
