"""How the daemon waits: it misses nothing, and does not keep the others from their turns."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from overlaykit.fuse.waiting import Waiting


@pytest.fixture(params=["with a processor to spare", "on one processor"])
def waiting(request: pytest.FixtureRequest) -> Waiting:
    ours = os.sched_getaffinity(0)
    if request.param == "on one processor":
        os.sched_setaffinity(0, {min(ours)})
    try:
        return Waiting()
    finally:
        os.sched_setaffinity(0, ours)


def test_each_request_is_met_however_soon_it_comes(waiting: Waiting) -> None:
    read, write = os.pipe()

    async def answer_some() -> None:
        for _ in range(2000):
            os.write(write, b"x")
            await waiting.wait_readable(read)
            assert os.read(read, 2) == b"x"

    trio.run(answer_some)
    os.close(read)
    os.close(write)


def test_others_have_their_turn_between_requests_and_when_there_are_none(waiting: Waiting) -> None:
    read, write = os.pipe()
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0)
            turns += 1

    async def answer_many() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            os.write(write, b"x")
            while turns < 3:
                await waiting.wait_readable(read)
            nursery.cancel_scope.cancel()
            os.read(read, 1)

    async def answer_none() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting.wait_readable, read)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(answer_many)
    trio.run(answer_none)
    os.close(read)
    os.close(write)
