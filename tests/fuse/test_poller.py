"""The poller misses no request, and does not starve other tasks."""

from __future__ import annotations

import os
import random
import select
import threading
import time
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from overlaykit.fuse.poller import Poller, task_events

from ..overlay.inside import as_ordinary_user

# In a sandbox, as the others here: closing it ends a process that waits for ever.
pytestmark = [pytest.mark.usefixtures("sandbox"), as_ordinary_user]


def test_each_request_is_answered_after_any_pause() -> None:
    chance = random.Random(1)
    pauses = [chance.choice((0, 0, 0, 0.00005, 0.0005, 0.003, 0.02)) for _ in range(200)]
    answered = threading.Semaphore(0)

    def ask(into: int) -> None:
        for pause in pauses:
            time.sleep(pause)
            os.write(into, b"x")
            answered.acquire()

    async def answer(poller: Poller, read: int, write: int) -> None:
        asking = threading.Thread(target=ask, args=(write,))
        asking.start()
        for _ in pauses:
            await poller.wait_readable(read)
            assert os.read(read, 2) == b"x"
            answered.release()
        asking.join()

    run(answer)


def test_other_tasks_run_between_requests_and_without_any() -> None:
    async def answer(poller: Poller, read: int, write: int) -> None:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.sleep(0)
                turns += 1

        os.write(write, b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            while turns < 3:
                await poller.wait_readable(read)
            nursery.cancel_scope.cancel()
        os.read(read, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.wait_readable, read)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    run(answer)


def test_the_plane_sees_when_other_tasks_have_an_event() -> None:
    async def main() -> None:
        read, write = os.pipe()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.wait_readable, read)
            await trio.testing.wait_all_tasks_blocked()
            events = task_events()
            assert select.select([events], [], [], 0)[0] == []
            os.write(write, b"x")
            assert select.select([events], [], [], 0)[0] == [events]
        os.close(read)
        os.close(write)

    trio.run(main)


def test_a_quick_function_in_a_thread_costs_no_turn_of_the_scheduler() -> None:
    async def answer(poller: Poller, read: int, write: int) -> None:
        others = trio.Event()

        async def run_meanwhile() -> None:
            others.set()

        poller.patience_seconds = 60.0  # a loaded machine takes its time
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_meanwhile)
            await poller.in_thread(os.fchmod, write, 0o600)
            with pytest.raises(OSError, match="Invalid argument"):
                await poller.in_thread(os.fsync, read)
            assert not others.is_set()

    run(answer)


@pytest.mark.parametrize("patience", [0.0, 0.001])
def test_other_tasks_run_while_a_function_in_a_thread_is_slow(patience: float) -> None:
    async def answer(poller: Poller, read: int, write: int) -> None:
        poller.patience_seconds = patience
        go = threading.Event()

        async def let_it_end() -> None:
            go.set()

        def wait_and_fail() -> None:
            go.wait()
            raise FileNotFoundError

        for _ in range(50):
            go.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(let_it_end)
                with pytest.raises(FileNotFoundError):
                    await poller.in_thread(wait_and_fail)

    run(answer)


def test_an_idle_daemon_rests_until_that_succeeds_and_misses_no_request() -> None:
    rests = 0

    async def answer(read: int, write: int) -> None:
        rested = trio.Event()

        def rest() -> bool:
            nonlocal rests
            rests += 1
            if rests == 2:
                rested.set()
            return rests == 2

        poller = Poller(rest)
        os.write(write, b"x")
        await poller.wait_readable(read)
        assert os.read(read, 2) == b"x"
        assert rests == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.wait_readable, read)
            await rested.wait()
            # Resting again would wake it up.
            await trio.testing.wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
            os.write(write, b"x")
        os.read(read, 1)
        # Another request follows at once: no rest is due for a while.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.wait_readable, read)
            await trio.testing.wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline > 10
            os.write(write, b"x")
        assert rests == 2

    trio.run(answer, *os.pipe())


def run(answer: Callable[[Poller, int, int], Awaitable[None]]) -> None:
    """Wait on a pipe."""
    trio.run(answer, Poller(), *os.pipe())
