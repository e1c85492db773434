"""How the daemon waits for the next request.

pyfuse3 has trio's whole scheduler turn around for each request, three times: that takes longer than most answers. But a
program that was answered asks again at once. So pyfuse3 is given (in place of the module trio, as its own
`pyfuse3.asyncio` does) a lock that costs no turn while it is free, and a wait that looks for the next request
for a moment before it leaves it to the scheduler. No other task waits for long: the moment is
short, not taken while a thread of ours is at work, and the scheduler has its turn every so often anyway.

Nor does it sleep while requests follow each other at once, if there is another processor for the program that asks:
waking up takes longer than most answers, on a virtual machine above all. A request that does not come soon ends that;
from then on it sleeps, until one has come soon.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVarTuple, Unpack

import pyfuse3
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

_SOON: Final = 1e-4
"""Seconds."""
_MOMENT: Final = 1
"""Milliseconds."""
_TURN: Final = 0.01
"""Seconds after which the scheduler has its turn, however many requests there are."""

Ts = TypeVarTuple("Ts")


class Waiting:
    """What pyfuse3 finds under the name `trio`, and under `trio.lowlevel`. One for each process.

    `stays_awake`: the last request came soon, so the next one is waited for without sleep.
    """

    ClosedResourceError = trio.ClosedResourceError
    open_nursery = staticmethod(trio.open_nursery)
    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self) -> None:
        self._polls: dict[int, Callable[[int], list[tuple[int, int]]]] = {}
        self._last_turn = 0.0
        self._threads = 0
        self._may_stay_awake = len(os.sched_getaffinity(0)) > 1
        self.stays_awake = False

    def install(self) -> None:
        """Let pyfuse3 wait like this."""
        pyfuse3.trio = self  # type: ignore[attr-defined]

    @property
    def lowlevel(self) -> Waiting:
        return self

    def Lock(self) -> Lock:  # noqa: N802  # trio's name
        return Lock()

    def is_disconnected(self) -> bool:
        """Whether the kernel has ended the connection (fs/fuse/dev.c: fuse_dev_poll)."""
        return any(
            events & select.POLLERR for poll in self._polls.values() for _, events in poll(0)
        )

    async def in_thread(self, function: Callable[[Unpack[Ts]], None], *args: *Ts) -> None:
        """Run something that takes long in a thread; its end is noticed at once."""
        self._threads += 1
        try:
            await trio.to_thread.run_sync(function, *args)
        finally:
            self._threads -= 1

    async def wait_readable(self, fd: int) -> None:
        """As trio's; raises trio.ClosedResourceError after `notify_closing`."""
        now = time.monotonic
        began = now()
        if not self._threads and began - self._last_turn < _TURN:
            poll = self._polls.get(fd)
            if poll is None:
                poller = select.poll()
                poller.register(fd, select.POLLIN)
                poll = self._polls[fd] = poller.poll
            while self.stays_awake:
                if poll(0):
                    return
                self.stays_awake = now() - began < _SOON
            if poll(_MOMENT):
                self.stays_awake = self._may_stay_awake and now() - began < _SOON
                return
        self.stays_awake = False
        await trio.lowlevel.wait_readable(fd)
        self._last_turn = now()


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
