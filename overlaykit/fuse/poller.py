"""Adaptive poller: how the daemon waits for the next request.

A program that got a reply sends its next request at once. For each request pyfuse3 takes three turns of the scheduler,
longer than most replies. So the poller polls the descriptor itself for `_POLL_MILLISECONDS` before it waits in the
scheduler, and its lock takes no turn while it is free. Other tasks are not starved: polling is short, is left out while
a thread is at work, and the scheduler gets a turn every `_SCHEDULER_TURN_SECONDS`.

While each request follows the last reply within `_PROMPT_SECONDS`, the poller spins instead of sleeping, if there is a
second processor for the program that asks: waking up takes longer than most replies, above all in a virtual machine.
One late request ends the spinning until a request comes promptly again.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVarTuple, Unpack

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

_PROMPT_SECONDS: Final = 1e-4
_POLL_MILLISECONDS: Final = 1
_SCHEDULER_TURN_SECONDS: Final = 0.01
_IDLE_SECONDS: Final = 0.5
_REST_INTERVAL_SECONDS: Final = 60.0
"""A rest takes 20 ms, and more when the program that asks goes on."""

_REST_ATTEMPTS: Final = 6

Ts = TypeVarTuple("Ts")


class Poller:
    """Stands in for the modules `trio` and `trio.lowlevel` inside pyfuse3 (see `patches`). One per process.

    `rest`: what to do once no request has come for `_IDLE_SECONDS`. It returns whether it is done; else it is called
    again later. `polls`: whether it polls at all; the session switches that on once the mount is ready. `spins`: the
    last request came promptly, so the next one is awaited without sleep.
    """

    ClosedResourceError = trio.ClosedResourceError
    open_nursery = staticmethod(trio.open_nursery)
    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self, rest: Callable[[], bool] | None = None) -> None:
        self._polls: dict[int, Callable[[int], list[tuple[int, int]]]] = {}
        self._last_scheduler_turn = 0.0
        self._threads = 0
        self._may_spin = len(os.sched_getaffinity(0)) > 1
        self._rest = rest
        self._rested = -_REST_INTERVAL_SECONDS
        self.polls = True
        self.spins = False

    @property
    def lowlevel(self) -> Poller:
        return self

    def Lock(self) -> Lock:  # noqa: N802  # trio's name
        return Lock()

    def is_disconnected(self) -> bool:
        """Whether the kernel has ended the connection (fs/fuse/dev.c: fuse_dev_poll)."""
        return any(
            events & select.POLLERR for poll in self._polls.values() for _, events in poll(0)
        )

    async def in_thread(self, function: Callable[[Unpack[Ts]], None], *args: *Ts) -> None:
        """Run a slow function in a thread. The poller does not poll until it ends, so its end is noticed at once."""
        self._threads += 1
        try:
            await trio.to_thread.run_sync(function, *args)
        finally:
            self._threads -= 1

    async def wait_readable(self, fd: int) -> None:
        """As trio's. Raises trio.ClosedResourceError after `notify_closing`."""
        now = time.monotonic
        began = now()
        may_poll = self.polls and not self._threads
        if may_poll and began - self._last_scheduler_turn < _SCHEDULER_TURN_SECONDS:
            poll = self._polls.get(fd)
            if poll is None:
                poller = select.poll()
                poller.register(fd, select.POLLIN)
                poll = self._polls[fd] = poller.poll
            while self.spins:
                if poll(0):
                    return
                self.spins = now() - began < _PROMPT_SECONDS
            if poll(_POLL_MILLISECONDS):
                self.spins = self._may_spin and now() - began < _PROMPT_SECONDS
                return
        self.spins = False
        if self._rest is None or not self.polls or not await self._rest_or_wait(fd, self._rest):
            await trio.lowlevel.wait_readable(fd)
        self._last_scheduler_turn = now()

    async def _rest_or_wait(self, fd: int, rest: Callable[[], bool]) -> bool:
        """Wait until a request comes, or the daemon has been idle for a while and rested: whether one has come."""
        due = self._rested + _REST_INTERVAL_SECONDS - time.monotonic()
        delay = max(_IDLE_SECONDS, due)
        for _ in range(_REST_ATTEMPTS):
            with trio.move_on_after(delay):
                await trio.lowlevel.wait_readable(fd)
                return True
            self._rested = time.monotonic()
            if rest():
                break
            delay *= 2
        return False


class Lock:
    """Held while waiting for requests. Unfair: barging is allowed, so a woken task may wait again."""

    def __init__(self) -> None:
        self._held = False
        self._parked: deque[trio.lowlevel.Task] = deque()

    async def __aenter__(self) -> None:
        while self._held:
            task = trio.lowlevel.current_task()

            def abort(_: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                self._parked.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            self._parked.append(task)
            await trio.lowlevel.wait_task_rescheduled(abort)
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        self._held = False
        if self._parked:
            trio.lowlevel.reschedule(self._parked.popleft())
