"""The life of one mount inside the daemon: open the layers, mount, report ready, serve until the mount is gone."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from overlaykit.fuse import (
    backing_device,
    cleanup,
    control_server,
    daemon_log,
    holders,
    keeper,
    minimal_namespace,
    mount,
    mountpoints,
    no_open,
    passthrough,
    unmount,
)
from overlaykit.fuse.comparing import Comparisons
from overlaykit.fuse.confinement import confine
from overlaykit.fuse.connection import Connection
from overlaykit.fuse.operations import Operations
from overlaykit.fuse.poller import Poller
from overlaykit.fuse.stack import open_filesystem, tree_name

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from overlaykit.fuse.directories import Directories
    from overlaykit.fuse.image import Image
    from overlaykit.fuse.spec import Cleanup, MountSpec
    from overlaykit.mountinfo import Mount

_GARBAGE_OBJECTS: Final = 10_000
"""Objects made and not freed before a search for cycles. The names of a wide directory form no cycles."""

log: Final = logging.getLogger(__name__)


class Parent(Protocol):
    """The process that has started the daemon.

    `has_begun`: the mount is ready, so it hears of no failure.
    """

    has_begun: bool

    def require(self) -> None:
        """Raise ConnectionResetError if it has ended."""

    def ready(self, device: int, detached: int = -1) -> None:
        """Tell it that the mount answers: its device number (st_dev), and the detached mount (-1: it is attached)."""

    def written(self) -> None:
        """Tell it that all that was written is in the upper."""


def run(
    spec: MountSpec,
    directories: Directories,
    listener: socket.socket,
    parent: Parent,
    image: Image | None = None,
) -> None:
    """Serve a mount from beginning to end.

    `image`: what the daemon shares with others while it is idle.
    Raises: Error or OSError; before `parent` was told that the mount is ready, if it cannot be mounted.
    Ensures: `directories` is closed.
    With `spec.restart` the process becomes the keeper of the mount, and a child serves it, in which this returns.
    """
    goes_without_open = no_open.is_on(spec)
    options = spec.options.replace(no_open="on" if goes_without_open else "off")
    # Without OPEN the kernel does not say which files are open.
    is_kept = spec.restart and not goes_without_open and keeper.share()
    # They would end the process between its parts.
    signal.pthread_sigmask(signal.SIG_BLOCK, keeper.FORWARDED)
    target = -1 if spec.target is None else directories.open(spec.target)
    stage = -1 if spec.stage is None else minimal_namespace.make_stage(spec.stage)
    with open_filesystem(spec, directories, target) as filesystem:
        directories.close()
        rest = image.share if image is not None else None
        poller = Poller(rest)
        # The start waits for the kernel once or twice: polling would only delay it.
        poller.polls = False
        filesystem.lookup.pin(spec.pinned)
        operations = Operations(filesystem, options, poller)
        connection = Connection(operations, poller)
        detached = _mount(spec, connection)
        try:
            gc.collect()
            # All objects made so far live as long as the mount.
            gc.freeze()
            gc.set_threshold(_GARBAGE_OBJECTS)
            wants_passthrough = passthrough.wanted(spec.options)
            connection.negotiate(wants_passthrough=wants_passthrough)
            if connection.passes_through:
                filesystem.write_through()
                # The next daemon would not know which files are registered.
                is_kept = False
            passes = connection.passes_through and passthrough.takes_files(connection.device)
            if not passes and spec.options.data == "passthrough":
                raise passthrough.NoPassthrough
            parent.require()
            start = _start(spec, target, stage, detached)
            begin: Callable[[], None] = functools.partial(parent.ready, start.device)
            if start.mounted is None:
                # The parent has more to do before it uses the mount.
                parent.ready(start.device, detached)
                # An open descriptor would keep the mount.
                os.close(detached)
                begin = _nothing
            kept = None
            if is_kept:
                filesystem.release_descriptors()
                kept = _Kept(os.getpid(), takes_over=keeper.keep(begin, rest))
                begin = functools.partial(keeper.begin, kept.keeper)
                parent.has_begun = True
            operations.begin_plane(is_kept=kept is not None)
            if kept is not None and kept.takes_over:
                operations.take_over(connection.device)
            if passes:
                operations.begin_passthrough(connection.device)
            trio.run(_serve, start, kept, operations, poller, connection, listener, begin)
        except BaseExceptionGroup as group:
            raise _only(group) from group
        finally:
            connection.close()
    parent.written()
    for number, layer in enumerate(spec.layers):
        if layer.recursive:
            # A directory on which one of its mounts lies cannot be removed.
            unmount.detach_own(f"/{tree_name(number)}")
    cleanup.remove(start.left)


def _nothing() -> None:
    pass


def _only(error: BaseException) -> BaseException:
    """The error in a nursery's group, if there is one only."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _mount(spec: MountSpec, connection: Connection) -> int:
    """Mount and open the session. Returns the detached mount, or -1 where fusermount3 has attached it."""
    read_only = spec.upper is None
    device = mount.open_device()
    try:
        detached = mount.create(device, spec.source, spec.flags, read_only=read_only)
    except PermissionError:
        os.close(device)
        if spec.target is None:
            raise
        options = mount.helper_options(spec.source, spec.flags, spec.target, read_only=read_only)
        connection.open(mount.attach_by_helper(spec.target, options))
        return -1
    connection.open(device)
    return detached


@dataclass(frozen=True, slots=True)
class _Start:
    """What is mounted. `mounted`, `helper`: of an attached mount. `left`: what to remove at its end."""

    device: int
    left: Cleanup
    mounted: Mount | None = None
    helper: unmount.Helper | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    """Of a daemon with a keeper, whose pid is `keeper`. `takes_over`: another daemon was killed."""

    keeper: int
    takes_over: bool


def _start(spec: MountSpec, target: int, stage: int, detached: int) -> _Start:
    """Attach the mount, and confine this process."""
    if detached < 0:
        assert spec.target is not None
        # Programs see it already.
        mounted = _attach(spec.target, target, detached)
        helper = unmount.Helper(mounted.id)
        confine(attached=True)
        return _Start(mounted.device, spec.cleanup, mounted, helper)
    backing_device.tune(f"/proc/self/fd/{detached}")
    if spec.target is None:
        left = _leave_mounts(spec, stage)
        confine(attached=False)
        return _Start(holders.device_of(f"/proc/self/fd/{detached}"), left)
    mounted = _attach(spec.target, target, detached)
    left = _leave_mounts(spec, minimal_namespace.isolate(mounted.mountpoint))
    confine(attached=True)
    return _Start(mounted.device, left, mounted)


async def _serve(
    start: _Start,
    kept: _Kept | None,
    operations: Operations,
    poller: Poller,
    connection: Connection,
    listener: socket.socket,
    begin: Callable[[], None],
) -> None:
    """Serve until the mount is gone. `begin` is called once requests are answered at once."""
    comparisons = Comparisons()
    async with trio.open_nursery() as nursery:
        terminated = await nursery.start(_watch_for_termination)
        keeper.let_signals_arrive()
        poller.polls = True
        nursery.start_soon(
            _answer_requests, operations, poller, connection, comparisons, nursery.cancel_scope
        )
        if start.mounted is None:
            nursery.start_soon(_end_on_termination, terminated, connection)
        else:
            if start.helper is not None:
                own = {start.helper.pid, kept.keeper if kept else start.helper.pid}
                nursery.start_soon(_end_with_namespace, start.mounted, own)
            nursery.start_soon(
                _unmount_on_termination, terminated, connection, start.mounted, start.helper
            )
        accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        nursery.start_soon(
            control_server.serve, accepting, operations, comparisons, connection.terminate
        )
        begin()


def _leave_mounts(spec: MountSpec, stage: int) -> Cleanup:
    """Detach the mounts that are not needed. Returns: what to remove at the end, held open."""
    left = cleanup.held(spec.cleanup)
    daemon_log.hold()
    minimal_namespace.enter(stage)
    return left


def _attach(path: str, target: int, detached: int) -> Mount:
    """Attach the detached mount to `target`, the directory at `path`; -1: it is attached. Closes both descriptors."""
    if detached >= 0:
        number = holders.mount_id_of(f"/proc/self/fd/{detached}")
        mount.attach(detached, target)
        os.close(detached)
        mounted = mountpoints.with_id(number)
    else:
        mounted = mountpoints.find(path)
    # An open descriptor would keep the mount below it busy.
    os.close(target)
    if mounted is None:
        # It is unmounted already.
        raise mountpoints.NotMounted(path)
    return mounted


async def _answer_requests(
    operations: Operations,
    poller: Poller,
    connection: Connection,
    comparisons: Comparisons,
    rest: trio.CancelScope,
) -> None:
    try:
        await connection.serve()
        if poller.is_disconnected():
            # Before anything else: umount(8) does not wait for the daemon, and its caller may take the disks away.
            comparisons.end_all()
            operations.close()
    except* ConnectionAbortedError:
        # The mount has ended with requests under way.
        log.info("the kernel has ended the connection")
    finally:
        rest.cancel()


async def _watch_for_termination(
    task_status: trio.TaskStatus[trio.MemoryReceiveChannel[int]],
) -> None:
    """Send each SIGTERM and SIGINT to the channel that is the status. They have no other effect from then on."""
    send, receive = trio.open_memory_channel[int](1)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started(receive)
        async for number in signals:
            await send.send(number)


async def _end_on_termination(
    terminated: trio.MemoryReceiveChannel[int], connection: Connection
) -> None:
    await terminated.receive()
    connection.terminate()


async def _unmount_on_termination(
    terminated: trio.MemoryReceiveChannel[int],
    connection: Connection,
    mounted: Mount,
    helper: unmount.Helper | None,
) -> None:
    """Unmount on the first signal. The connection ends at the second one, or if unmounting fails."""
    await terminated.receive()
    log.info("unmounting %s", mounted.mountpoint)
    if helper is not None:
        # A child of this process, or of the keeper.
        helper.detach_when_unused()
        await trio.lowlevel.wait_readable(helper.ended)
        is_unmounted = mountpoints.with_id(mounted.id) is None
    else:
        child = unmount.detach_when_unused(mounted.id)
        _, status = await trio.to_thread.run_sync(os.waitpid, child, 0)
        is_unmounted = status == 0
    if is_unmounted:
        await terminated.receive()
    connection.terminate()


async def _end_with_namespace(mounted: Mount, own: set[int]) -> None:
    """Unmount once this process and its `own` ones are the last in their mount namespace, which they keep alive.

    Watches one other process at a time. Where PID 1 is hidden, other processes may be hidden too: watches none.
    """
    if not os.path.exists("/proc/1"):
        return
    while (witness := holders.another_with(mounted.id, own)) >= 0:
        try:
            await trio.lowlevel.wait_readable(witness)
        finally:
            os.close(witness)
    log.info("the mount namespace has no other process: unmounting %s", mounted.mountpoint)
    os.kill(os.getpid(), signal.SIGTERM)
