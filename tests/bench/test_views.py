"""The workloads on views measure views, as root and as an ordinary user, and clean up."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator

import pytest

from overlaykit.bench import views
from overlaykit.bench.views import (
    changes,
    client,
    comparison,
    disk,
    launchers,
    memory,
    ports,
    processor,
    start,
)
from overlaykit.bench.views.idle import IDLE, idle_processes
from overlaykit.bench.views.launchers import Launcher, installed
from overlaykit.bench.workload import Context, Unfit, Workload
from overlaykit.views import server

from ..views.user import TestUser

EVERYWHERE = {"plain", "overlaykit", "unshare", "bwrap"}
"""The launchers of a machine that is set up for the tests."""

TINY = 0.001


@pytest.fixture(autouse=True)
def without_podman(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave podman out: it may lack what it needs, and leaves a process running."""
    every = launchers.launchers
    for module in (launchers, start):
        monkeypatch.setattr(
            module, "launchers", lambda: [one for one in every() if one.name in EVERYWHERE]
        )
    missing = Launcher("podman", ("no-such-podman",), "podman", "nothing")
    monkeypatch.setattr(ports, "podman", lambda *_: missing)


def measured(user: TestUser, workload: Workload) -> dict[str, float]:
    """One round of a workload: the value of each subject that can be measured."""
    context = Context(directory=tempfile.mkdtemp(dir=user.scratch), systems=())
    found = {}
    with workload.open(context) as subjects:
        for subject in subjects:
            assert subject.what
            # A launcher that cannot work here.
            with contextlib.suppress(Unfit, subprocess.CalledProcessError):
                found[subject.name] = subject.measure()
    return found


@contextlib.contextmanager
def interrupted() -> Iterator[None]:
    yield
    raise KeyboardInterrupt


@pytest.mark.parametrize("until", ["first", "end"])
def test_a_start_is_timed_beside_other_launchers(user: TestUser, until: str) -> None:
    workload = next(one for one in start.workloads(TINY) if one.name == f"start/{until}")
    found = measured(user, workload)
    assert found.keys() >= EVERYWHERE | {"overlaykit, read-only", "overlaykit, no server"}
    assert min(found.values()) > 0


def test_the_start_of_a_view_is_compared_with_that_of_the_first(user: TestUser) -> None:
    (workload,) = (one for one in start.workloads(TINY) if one.name == "start/last of 10")
    found = measured(user, workload)
    assert found.keys() >= EVERYWHERE
    assert min(found.values()) > 0


def test_a_further_view_takes_memory_too(user: TestUser) -> None:
    (workload,) = (one for one in memory.workloads(TINY) if one.name == "memory/further")
    found = measured(user, workload)
    assert found.keys() >= EVERYWHERE
    assert found["overlaykit"] > found["unshare"] > 0


def test_a_view_is_measured_beside_a_machine(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = comparison.section(TINY)
    assert [one.name for one in every] == [
        f"machine/{name}" for name in ("start", "processor", "memory", "storage")
    ]
    with every[1].open(Context(directory=user.scratch, systems=())) as subjects:
        assert [one.name for one in subjects] == ["plain", "view", "view, kernel", "machine"]
    without = [one for one in comparison.places() if one.kind != "vm"]  # takes seconds
    monkeypatch.setattr(comparison, "places", lambda: without)
    found = measured(user, comparison.section(TINY)[1])
    assert found.keys() >= {"plain", "view"}
    assert min(found.values()) > 0


@pytest.mark.parametrize("name", ["diff/few", "diff/many", "apply/many"])
def test_changes_are_listed_and_applied_beside_the_usual_commands(
    user: TestUser, name: str
) -> None:
    (workload,) = (one for one in changes.workloads(TINY) if one.name == name)
    found = measured(user, workload)
    assert found.keys() >= {"plain", "overlaykit"}
    assert min(found.values()) > 0


def test_the_fork_server_runs_only_while_it_is_measured(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(server.VARIABLE)
    with launchers.warm():
        assert server.status() is not None
    assert server.status() is None


def test_a_launcher_that_is_not_installed_says_what_to_install() -> None:
    missing = Launcher("sealer", ("no-such-sealer", "run"), "sealing-wax", "nothing")
    with pytest.raises(Unfit, match="no no-such-sealer: apt-get install sealing-wax"):
        missing.command("true")


def test_a_launcher_that_fails_says_why(user: TestUser) -> None:
    command = ["sh", "-c", "echo broken >&2; exit 3"]
    with (
        pytest.raises(subprocess.CalledProcessError) as failed,
        idle_processes([command], contextlib.nullcontext),
    ):
        pass
    assert (failed.value.returncode, failed.value.stderr) == (3, b"broken\n")


def test_an_interrupt_leaves_no_view_running(user: TestUser) -> None:
    commands = [launcher.command(*IDLE) for launcher in installed()]
    with (
        pytest.raises(KeyboardInterrupt),
        idle_processes(commands, interrupted, at_once=len(commands)),
    ):
        pass


def test_the_parts_of_a_views_memory_are_of_the_same_samples(user: TestUser) -> None:
    samples = memory.MemorySamples(2)
    whole, daemon, cache = (
        measured(user, held)
        for held in (
            memory.MemoryUse("view", samples),
            memory.MemoryUse("daemon", samples),
            memory.MemoryUse("cache", samples),
        )
    )
    assert whole.keys() == cache.keys() >= EVERYWHERE
    assert daemon.keys() == {"overlaykit"}
    assert 0 < daemon["overlaykit"] < whole["overlaykit"]
    assert all(0 < cache[name] < whole[name] for name in whole)
    assert max(whole, key=whole.__getitem__) == "overlaykit"


def test_the_memory_of_a_process_is_counted() -> None:
    before, _ = memory.proportional(os.getpid())
    with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE) as held:
        held.write(bytes(b"x" * len(held)))
        now, _ = memory.proportional(os.getpid())
    assert now - before >= 60 << 20


def test_a_process_that_has_ended_holds_nothing() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert memory.proportional(process.pid) == (0, 0)


def test_a_view_takes_disk_for_what_was_changed_not_for_what_it_shows(user: TestUser) -> None:
    idle, changed = disk.workloads()
    before = measured(user, idle)
    after = measured(user, changed)
    assert before["plain"] >= 16 << 20
    assert before["overlaykit"] < 1 << 20 <= after["overlaykit"] < 2 << 20


@pytest.mark.parametrize("work", ["hash", "syscall"])
def test_a_computation_is_measured_with_and_without_isolation(user: TestUser, work: str) -> None:
    workload = next(one for one in processor.workloads(0.01) if one.name == f"processor/{work}")
    found = measured(user, workload)
    assert found.keys() >= EVERYWHERE
    assert min(found.values()) > 0


@pytest.mark.parametrize("kind", ["requests", "connections", "bulk"])
def test_a_published_port_is_measured_beside_one_of_the_host(user: TestUser, kind: str) -> None:
    workload = next(one for one in ports.workloads(TINY) if one.name == f"ports/{kind}")
    found = measured(user, workload)
    assert found.keys() == {"plain", "overlaykit"}
    assert min(found.values()) > 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda port: client.timed_requests(port, 8, 2),
        lambda port: client.timed_new_connections(port, 8),
        client.timed_bulk,
    ],
)
def test_a_server_that_hangs_up_ends_the_measurement(ask: Callable[[int], float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # until the listener is shut down
                while True:
                    listener.accept()[0].close()

        server = threading.Thread(target=hang_up, daemon=True)
        server.start()
        with pytest.raises(ConnectionError):
            ask(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        server.join()


def test_a_smaller_run_has_the_same_workloads_with_fewer_views() -> None:
    full, quick = ({one.name for one in views.workloads(scale)} for scale in (1.0, 0.1))
    fewer = {f"memory/{part} 100" for part in ("view", "daemon", "cache")}
    assert full - quick == fewer | {"start/last of 100"}
    assert quick - full == {"start/last of 10"}
