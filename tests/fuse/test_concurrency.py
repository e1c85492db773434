"""The concurrency rules of `overlaykit.fuse`, by their numbers: each test fails if its rule is broken."""

from __future__ import annotations

import ast
import errno
import os
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from unittest.mock import Mock

import pyfuse3
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from overlaykit import inodes
from overlaykit.fuse import control, copying, operations

from ..overlay.seen import looked_at
from ..overlay.stack import Stack
from ..posix.table import Dir, File, Link
from .mounted import mounted
from .random_changes import STARTING_POINT, play
from .requests import Requests, Stalled, stalled_copies, stalled_syncs

PROCESSES = 8
OPERATIONS = 400

Body = Callable[[Requests], Awaitable[None]]


def serve(stack: Stack, body: Body, *, descriptors: int | None = None) -> None:
    """Run `body` on the requests of a mount of the stack. `descriptors`: how many of each kind stay cached."""
    with stack.bare() as view:
        filesystem = view.filesystem
        if descriptors is not None:
            filesystem.files.descriptors.limit = descriptors
            filesystem._descriptors.limit = descriptors
        trio.run(body, Requests(filesystem))


def test_rule_1_programs_that_change_all_at_once_leave_one_tree(stack: Stack) -> None:
    """The lowers stay as they were, and the kernel's overlayfs sees the same tree."""
    stack.add({name: File(b"top") for name in STARTING_POINT[::3]} | {"d1": Dir(mode=0o700)})
    stack.add(
        {name: File(b"bottom" * 100) for name in STARTING_POINT}
        | {"d0/f0": File(b"linked"), "d1/n0": Link("d0/f0"), "d2/n0": Link("d0/f0")}
    )
    lowers = [looked_at(lower) for lower in stack.lowers]
    with mounted(stack) as mount:
        pids = [_start(mount.target, seed) for seed in range(PROCESSES)]
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * PROCESSES
        seen = looked_at(mount.target)
        mount.await_held(open_files=0)
    assert [looked_at(lower) for lower in stack.lowers] == lowers
    # The whiteout that others link to may stay.
    assert len(os.listdir(os.path.join(stack.work, "work"))) <= 1
    with mounted(stack) as mount:
        assert looked_at(mount.target) == seen
    # The kernel reads the index of hard links for root alone.
    if not stack.unprivileged:
        with stack.mounted_by_the_kernel() as target:
            assert looked_at(target) == seen


def test_rule_1_no_task_runs_between_the_steps_of_a_request(stack: Stack) -> None:
    stack.add({"d/f": File(b"old"), "g": File(b"")})

    async def body(requests: Requests) -> None:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.sleep(0)
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            handle = await requests.open("d/f")
            assert await requests.read(handle) == b"old"
            await requests.getattr("d")
            await requests.chmod("g", stat.S_IFREG | 0o600)  # without data: nothing to wait for
            await requests.rename("", b"g", "d", b"h")
            await requests.unlink("d", b"h")
            assert turns == 0
            nursery.cancel_scope.cancel()

    serve(stack, body)


def test_rule_2_requests_await_a_copy_and_a_sync_only() -> None:
    assert _awaited(operations.__file__) == {
        "handler": 1,  # by `_request`, for all of them
        "self._copying.copy_up": 10,
        "self._copying.copy_small": 1,
        "self._poller.in_thread": 4,
        # Of no request, but of what changes the layers:
        "self._quiet.wait": 1,
        "trio.to_thread.run_sync": 1,
    }
    assert set(_awaited(copying.__file__)) == {
        "self._slots.acquire",
        "under_way.wait",
        "self._carry_out",
        "self.copy_small",
        "self._poller.in_thread",
    }


def test_rule_2_other_requests_are_answered_during_a_copy(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.add({"f": File(b"old"), "d/g": File(b"other")})
    copies = stalled_copies(monkeypatch)

    async def body(requests: Requests) -> None:
        async with copies.during(requests.chmod, "f", stat.S_IFREG | 0o600):
            assert await requests.read(await requests.open("d/g")) == b"other"
            await requests.unlink("d", b"g")

    serve(stack, body)


def test_rule_2_a_small_copy_leaves_its_sync_to_a_thread_while_syncs_are_slow(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else: it is begun and finished as one whose sync is quick. An error is left to the other way."""
    stack.add({"f": File(b"old"), "first": File(b"x"), "failing": File(b"x"), "g": File(b"y")})
    copies = Mock(wraps=inodes.copy)
    monkeypatch.setattr(inodes, "copy", copies)

    async def body(requests: Requests) -> None:
        syncs = stalled_syncs(monkeypatch, requests.filesystem)
        await requests.chmod("first", stat.S_IFREG | 0o600)
        copies.reset_mock()
        async with syncs.during(requests.open, "f", os.O_RDWR):
            assert await requests.read(await requests.open("g")) == b"y"
            await requests.unlink("", b"g")
        assert await requests.read(await requests.open("f")) == b"old"
        assert (syncs.calls, copies.call_count) == (1, 0)
        syncs.failures += [errno.EIO]
        await requests.chmod("failing", stat.S_IFREG | 0o600)
        assert (syncs.calls, copies.call_count) == (3, 1)

    serve(stack, body)
    assert looked_at(stack.upper)["f"].content == b"old"


@pytest.mark.parametrize("other", ["copied", "opened", "unlinked", "replaced"])
def test_rules_5_and_6_a_file_may_change_while_its_small_copy_is_synced(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    lower = stack.add({"f": File(b"old"), "first": File(b"x"), "g": File()})

    async def body(requests: Requests) -> None:
        syncs = stalled_syncs(monkeypatch, requests.filesystem)
        await requests.chmod("first", stat.S_IFREG | 0o600)
        node = requests.filesystem.nodes.file(await requests.nodeid("f"))
        reader = -1
        async with syncs.during(requests.chmod, "f", stat.S_IFREG | 0o600):
            if other == "copied":
                requests.filesystem.copyup.file(node)
                with open(os.path.join(stack.upper, "f"), "wb") as file:
                    file.write(b"new")
            elif other == "opened":
                reader = await requests.open("f")
            elif other == "unlinked":
                await requests.unlink("", b"f")
            else:
                await requests.rename("", b"g", "", b"f")
        assert node.has_upper
        expected = {"copied": b"new", "opened": b"old", "replaced": b""}.get(other)
        if expected is None:
            assert await requests.nodeid("f") == 0
        else:
            assert await requests.read(await requests.open("f")) == expected
        if reader >= 0:
            await requests.write(await requests.open("f", os.O_RDWR), 0, b"NEW")
            assert await requests.read(reader) == b"NEW"

    serve(stack, body)
    assert looked_at(lower)["f"].content == b"old"
    left = looked_at(os.path.join(stack.work, "work")).values()
    assert not [one for one in left if one.content]


@pytest.mark.parametrize("name", ["fsync", "fdatasync"])
def test_rules_3_and_4_a_file_being_synced_keeps_its_descriptor(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stack.add({"f": File(b"old"), "g": File(b"")})

    async def body(requests: Requests) -> None:
        handle = await requests.open("f", os.O_RDWR)
        await requests.write(handle, 0, b"new")
        syncs = Stalled(monkeypatch, os, name)
        async with syncs.during(requests.operations.fsync, handle, name == "fdatasync"):
            await requests.getattr("g")
            assert not requests.filesystem.files.by_handle[handle].is_idle
        await requests.getattr("g")
        assert requests.filesystem.files.by_handle[handle].is_idle

    serve(stack, body, descriptors=0)


def test_rules_3_and_4_a_directory_being_synced_keeps_its_descriptor(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.add({"d/f": File(b"")})

    async def body(requests: Requests) -> None:
        await requests.unlink("d", b"f")
        directory = await requests.nodeid("d")
        syncs = Stalled(monkeypatch, os, "fsync")
        async with syncs.during(requests.operations.fsyncdir, directory, False):
            await requests.rmdir("", b"d")

    serve(stack, body, descriptors=0)


def test_rules_3_and_4_a_copy_needs_no_descriptor_that_others_may_close(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.add({"d/f": File(b"old"), "g": File(b"other")})
    copies = stalled_copies(monkeypatch)

    async def body(requests: Requests) -> None:
        reader = await requests.open("d/f")
        async with copies.during(requests.chmod, "d/f", stat.S_IFREG | 0o600):
            await requests.getattr("g")
            assert requests.filesystem.files.by_handle[reader].is_idle
        assert await requests.read(reader) == b"old"

    serve(stack, body, descriptors=0)
    assert looked_at(stack.upper)["d/f"].content == b"old"


def test_rule_5_a_file_is_copied_once_however_many_write_to_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2 << 20  # such a file is copied by its first write
    stack.add({"f": File(b"x" * size)})
    copies = stalled_copies(monkeypatch)

    async def body(requests: Requests) -> None:
        handles = [await requests.open("f", os.O_RDWR) for _ in range(5)]
        async with copies.during(requests.write, handles[0], 0, b"0") as nursery:
            for number, handle in enumerate(handles[1:], 1):
                nursery.start_soon(requests.write, handle, number, b"%d" % number)
            await wait_all_tasks_blocked()
            assert copies.calls == 1
        assert (await requests.read(handles[0]))[:6] == b"01234x"

    serve(stack, body)
    assert copies.calls == 1


def test_rule_5_a_change_waits_for_the_copy_and_reading_does_not(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.add({"f": File(b"old", mode=0o644)})
    copies = stalled_copies(monkeypatch)

    async def body(requests: Requests) -> None:
        changed = trio.Event()

        async def change() -> None:
            await requests.chmod("f", stat.S_IFREG | 0o600)
            changed.set()

        reader = await requests.open("f")
        async with copies.during(requests.open, "f", os.O_RDWR) as nursery:
            nursery.start_soon(change)
            await wait_all_tasks_blocked()
            assert not changed.is_set()
            assert await requests.read(reader) == b"old"
            assert (await requests.getattr("f")).st_mode == stat.S_IFREG | 0o644
        assert (await requests.getattr("f")).st_mode == stat.S_IFREG | 0o600

    serve(stack, body)
    assert copies.calls == 1


def test_rule_5_a_change_of_metadata_waits_for_the_data_of_a_file_without_a_name(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its metadata are copied by the first change of them, its data by the first write."""
    stack.add({"f": File(b"x" * (2 << 20))})
    copies = stalled_copies(monkeypatch)

    async def body(requests: Requests) -> None:
        nodeid, handle = await requests.nodeid("f"), await requests.open("f", os.O_RDWR)
        await requests.unlink("", b"f")
        await requests.setattr(nodeid, st_mode=stat.S_IFREG | 0o600)
        assert copies.calls == 0
        async with copies.during(requests.write, handle, 0, b"y") as nursery:
            nursery.start_soon(partial(requests.setattr, nodeid, st_atime_ns=5, st_mtime_ns=5))
            await wait_all_tasks_blocked()
        attributes = await requests.operations.getattr(nodeid, requests.context)
        assert (attributes.st_mode, attributes.st_mtime_ns) == (stat.S_IFREG | 0o600, 5)

    serve(stack, body)


def test_rule_6_a_file_that_is_unlinked_during_its_copy_stays_unlinked(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = stack.add({"d/f": File(b"old")})
    copies = stalled_copies(monkeypatch)

    async def body(requests: Requests) -> None:
        handle = await requests.open("d/f")
        async with copies.during(requests.chmod, "d/f", stat.S_IFREG | 0o600):
            await requests.unlink("d", b"f")
        assert await requests.nodeid("d/f") == 0
        assert await requests.read(handle) == b"old"

    serve(stack, body)
    assert os.listdir(os.path.join(stack.upper, "d")) == ["f"]  # the whiteout
    assert looked_at(lower)["d/f"].content == b"old"


def test_rule_6_a_file_that_is_replaced_during_its_copy_stays_replaced(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.add({"f": File(b"old")})
    stack.add({"g": File(b"")})
    copies = stalled_copies(monkeypatch)

    async def body(requests: Requests) -> None:
        async with copies.during(requests.chmod, "f", stat.S_IFREG | 0o600):
            await requests.rename("", b"g", "", b"f")
        assert await requests.read(await requests.open("f")) == b""

    serve(stack, body)


def test_rule_6_a_file_is_copied_to_where_its_directory_was_moved(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.add({"d/e/f": File(b"old")})
    copies = stalled_copies(monkeypatch)

    async def body(requests: Requests) -> None:
        async with copies.during(requests.chmod, "d/e/f", stat.S_IFREG | 0o600):
            await requests.rename("", b"d", "", b"moved")
        assert (await requests.getattr("moved/e/f")).st_mode == stat.S_IFREG | 0o600

    serve(stack, body)
    assert looked_at(stack.upper)["moved/e/f"].content == b"old"


def test_rule_7_no_name_is_made_in_a_directory_that_was_removed_during_the_copy(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.add({"f": File(b"old"), "d": Dir()})
    copies = stalled_copies(monkeypatch)

    async def body(requests: Requests) -> None:
        async def link() -> None:
            with pytest.raises(pyfuse3.FUSEError) as failed:
                await requests.link("f", "d", b"name")
            assert failed.value.errno == errno.ENOENT

        async with copies.during(link):
            await requests.rmdir("", b"d")
        assert await requests.nodeid("d") == 0

    serve(stack, body)


def test_rule_7_the_name_to_remove_is_looked_up_after_the_copy(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with several names is copied before one of them is removed: its index counts them."""
    stack.add({"f": File(b"old"), "g": Link("f")})
    copies = stalled_copies(monkeypatch)

    async def body(requests: Requests) -> None:
        failures: list[int] = []

        async def unlink() -> None:
            try:
                await requests.unlink("", b"f")
            except pyfuse3.FUSEError as error:
                failures.append(error.errno)

        async with copies.during(unlink) as nursery:
            nursery.start_soon(unlink)
            await wait_all_tasks_blocked()
        assert failures == [errno.ENOENT]
        assert await requests.nodeid("f") == 0
        assert (await requests.getattr("g")).st_nlink == 1

    serve(stack, body)


def test_rule_8_after_a_copy_that_failed_the_next_request_copies(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.add({"f": File(b"old", mode=0o644)})
    copies = stalled_copies(monkeypatch)
    copies.failures.append(errno.ENOSPC)

    async def body(requests: Requests) -> None:
        async def fail() -> None:
            with pytest.raises(pyfuse3.FUSEError) as failed:
                await requests.open("f", os.O_RDWR)
            assert failed.value.errno == errno.ENOSPC
            assert os.listdir(stack.upper) == []

        async with copies.during(fail) as nursery:
            nursery.start_soon(requests.chmod, "f", stat.S_IFREG | 0o600)
            await wait_all_tasks_blocked()
        assert (await requests.getattr("f")).st_mode == stat.S_IFREG | 0o600

    serve(stack, body)
    assert copies.calls == 2
    assert os.listdir(os.path.join(stack.work, "work")) == []


def test_rule_9_copies_that_wait_for_a_slot_hold_no_descriptor(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"f{number}" for number in range(4)]
    stack.add({name: File(b"old") for name in names})
    copies = stalled_copies(monkeypatch)

    async def body(requests: Requests) -> None:
        filesystem = requests.filesystem
        filesystem.shares = filesystem.shares._replace(copies=1)
        limited = Requests(filesystem)
        async with copies.during(limited.chmod, names[0], stat.S_IFREG | 0o600) as nursery:
            before = os.listdir("/proc/self/fd")
            for name in names[1:]:
                nursery.start_soon(limited.chmod, name, stat.S_IFREG | 0o600)
            await wait_all_tasks_blocked()
            assert copies.calls == 1
            assert os.listdir("/proc/self/fd") == before

    serve(stack, body)
    assert copies.calls == len(names)


def test_rule_10_a_request_under_way_ends_before_the_layers_are_closed(stack: Stack) -> None:
    size = 64 << 20
    stack.add({"f": File(b"x" * size)})
    with mounted(stack) as mount:
        writer = os.fork()
        if writer == 0:
            try:
                with open(mount.path("f"), "r+b", buffering=0) as file:
                    file.write(b"y")
                    os.fsync(file)
            finally:
                os._exit(0)
        while not os.listdir(os.path.join(stack.work, "work")):
            pass
        control.ask(mount.control_path, control.End(), control.Ending)
        assert mount.process.wait()
        os.waitpid(writer, 0)
    assert os.listdir(os.path.join(stack.work, "work")) == []
    for name in os.listdir(stack.upper):
        assert os.stat(os.path.join(stack.upper, name)).st_size == size


def _awaited(path: str) -> dict[str, int]:
    """The calls that a file awaits, and how often."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        assert not isinstance(node, ast.AsyncFor | ast.AsyncWith)
        if isinstance(node, ast.Await):
            assert isinstance(node.value, ast.Call)
            name = ast.unparse(node.value.func)
            found[name] = found.get(name, 0) + 1
    return found


def _start(root: str, seed: int) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            play(root, seed, OPERATIONS)
            status = 0
        finally:
            os._exit(status)
    return pid
