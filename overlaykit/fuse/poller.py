"""How the daemon waits: for the next request, and for a function in a thread.

A program that got a reply sends its next request at once. For each request pyfuse3 takes three turns of the scheduler,
longer than most replies. So the data plane reads the requests, and answers what it can; the scheduler gets a turn when
it has an event and there is no request, when Python has just answered one and none comes for `_POLL_MILLISECONDS`, and
at the latest after `_SCHEDULER_TURN_SECONDS`. The lock takes no turn while it is free. While a thread is at work, the
scheduler waits for requests.

The plane sleeps between two requests, or spins: waking up takes longer than most replies, above all in a virtual
machine, but if the other processors are busy, spinning takes the time of the program that asks. It tries both, and goes
on with what brings the next request sooner (native/plane.c: choose_wait).

A function that runs in a thread is awaited in the same way: for `patience_seconds` without the scheduler, whose part in
it takes longer than the copy of a small file. A slow function ends that until one is quick again.
"""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVarTuple, Unpack

import trio

from overlaykit import _native

if TYPE_CHECKING:
    from collections.abc import Callable

    from outcome import Outcome

    from overlaykit.fuse.plane import Plane
    from overlaykit.fuse.tracing import Trace

_POLL_MILLISECONDS: Final = 1
_SCHEDULER_TURN_SECONDS: Final = 0.01
_IDLE_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 0.001
_REST_INTERVAL_SECONDS: Final = 60.0
"""A rest takes 20 ms, and more when the program that asks goes on."""

_REST_ATTEMPTS: Final = 6

Ts = TypeVarTuple("Ts")


class Poller:
    """Stands in for the modules `trio` and `trio.lowlevel` inside pyfuse3 (see `patches`). One per process.

    `rest`: what to do once no request has come for `_IDLE_SECONDS`. It returns whether it is done; else it is
    called again later. `patience_seconds`: how long `in_thread` may hold up the other tasks. `polls`: whether it
    polls at all; the session switches that on once the mount is ready. `plane`: reads the requests; None: libfuse
    does. `trace`: the trace that runs. `device`: the descriptor that requests are read from.
    """

    ClosedResourceError = trio.ClosedResourceError
    open_nursery = staticmethod(trio.open_nursery)
    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self, rest: Callable[[], bool] | None = None) -> None:
        self.plane: Plane | None = None
        self.trace: Trace | None = None
        self.device = -1
        self._tasks = -1
        self._last_scheduler_turn = 0.0
        self._threads = 0
        self._rest = rest
        self._rested = -_REST_INTERVAL_SECONDS
        self.patience_seconds = _PATIENCE_SECONDS
        self._is_patient = True
        self.polls = True

    @property
    def lowlevel(self) -> Poller:
        return self

    def Lock(self) -> Lock:  # noqa: N802  # trio's name
        return Lock()

    def is_disconnected(self) -> bool:
        """Whether the kernel has ended the connection (fs/fuse/dev.c: fuse_dev_poll)."""
        if self.device < 0:
            return False
        poller = select.poll()
        poller.register(self.device, select.POLLIN)
        return any(events & select.POLLERR for _, events in poller.poll(0))

    async def in_thread(self, function: Callable[[Unpack[Ts]], None], *args: *Ts) -> None:
        """Run a slow function in a thread. It cannot be cancelled.

        Other tasks run once it has taken `patience_seconds`. The poller does not poll from then until it ends, so its
        end is noticed at once.
        """
        job = _Job()
        began = time.monotonic()
        trio.lowlevel.start_thread_soon(lambda: function(*args), job.deliver)
        if not job.wait(self.patience_seconds if self._is_patient else 0):
            self._threads += 1
            try:
                with trio.CancelScope(shield=True):
                    await job.wait_with_others()
            finally:
                self._threads -= 1
        self._is_patient = job.ended - began < self.patience_seconds
        job.result.unwrap()

    async def wait_readable(self, fd: int) -> None:
        """Return once there is a request for Python, or for no reason. As trio's without a plane.

        Raises trio.ClosedResourceError after `notify_closing`.
        """
        if self.device != fd:
            self.device = fd
            self._tasks = task_events()
            if self.plane is not None:
                self.plane.device = fd
        while self.plane is not None:
            now = time.monotonic()
            polls = self.polls and not self._threads
            due = now - self._last_scheduler_turn >= _SCHEDULER_TURN_SECONDS
            if polls and due:
                await trio.lowlevel.checkpoint()
                self._last_scheduler_turn = now
            is_idle = _native.plane_wait(fd, self._tasks, _POLL_MILLISECONDS, polls)
            if not is_idle and self.plane.answer_after_change():
                continue
            self.plane.take_back()
            if not is_idle:
                if self.trace is not None:  # of programs that may end soon
                    self.trace.take()
                if self.plane.answer_after_grant():
                    continue
                return
            await self._wait(fd)
        await self._wait(fd)

    async def _wait(self, fd: int) -> None:
        if self._rest is None or not self.polls or not await self._rest_or_wait(fd, self._rest):
            await trio.lowlevel.wait_readable(fd)
        self._last_scheduler_turn = time.monotonic()

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


def task_events() -> int:
    """The descriptor that is readable once trio has an event for a task: its own poll's.

    Returns: -1 if this trio keeps it elsewhere. Other tasks then wait until no request comes. Requires: a task runs.
    """
    try:
        events: int = trio._core._run.GLOBAL_RUN_CONTEXT.runner.io_manager._epoll.fileno()
    except AttributeError:
        return -1
    return events


class _Job:
    """A function that runs in a thread.

    `result`: what became of it, and `ended`: when (time.monotonic), once a wait for it has ended.
    """

    def __init__(self) -> None:
        self.result: Outcome[None]
        self.ended = 0.0
        self._token = trio.lowlevel.current_trio_token()
        self._delivered = threading.Lock()
        self._delivered.acquire()
        self._event: trio.Event | None = None

    def deliver(self, result: Outcome[None]) -> None:
        """Called in the thread."""
        self.result = result
        self.ended = time.monotonic()
        self._delivered.release()
        if self._event is not None:
            self._token.run_sync_soon(self._event.set)

    def wait(self, seconds: float) -> bool:
        """Whether it ends in that time. No other task runs."""
        return self._delivered.acquire(timeout=seconds)

    async def wait_with_others(self) -> None:
        """Requires: `wait` returned false."""
        self._event = trio.Event()
        # Where it ended before this line, `deliver` may have found no event.
        if not self.wait(0):
            await self._event.wait()


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
