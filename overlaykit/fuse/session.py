"""One mount's life inside the daemon: open the layers, mount, say so, answer until the mount is gone."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

from overlaykit import _native
from overlaykit.fuse import control_server, holders, mount, mountpoints, unmount
from overlaykit.fuse.handshake import Handshake
from overlaykit.fuse.minimal_namespace import enter_minimal_mount_namespace
from overlaykit.fuse.operations import Operations
from overlaykit.fuse.stack import open_filesystem
from overlaykit.fuse.waiting import Waiting
from overlaykit.rmtree import rmtree_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlaykit.fuse.directories import Directories
    from overlaykit.fuse.spec import MountSpec
    from overlaykit.mountinfo import Mount

_GARBAGE: Final = 10_000
"""Objects made and not freed after which cycles are looked for; the names of a wide directory are none."""

log: Final = logging.getLogger(__name__)


def run(
    spec: MountSpec,
    directories: Directories,
    listener: socket.socket,
    starter: socket.socket,
    tell: Callable[[int, int], None],
) -> None:
    """Serve a mount from beginning to end. `tell` is called once it answers, with its device number (st_dev) and the
    detached mount or -1.

    `directories` is closed. Until then all ends if `starter` does. Raises Error or OSError, before `tell` was called,
    if it cannot be mounted.
    """
    target = -1 if spec.target is None else directories.open(spec.target)
    with open_filesystem(spec, directories, target) as filesystem:
        directories.close()
        waiting = Waiting()
        waiting.install()
        operations = Operations(filesystem, spec.options, waiting)
        detached, handshake = _mount(spec, operations)
        try:
            gc.collect()
            gc.freeze()  # what lives this long lives as long as the mount
            gc.set_threshold(_GARBAGE)
            served = functools.partial(
                _serve, spec, target, operations, waiting, detached, handshake
            )
            trio.run(served, listener, starter, tell)
        except BaseExceptionGroup as group:
            raise _only(group) from group
        finally:
            pyfuse3.close(unmount=False)
        if spec.stage is not None:
            unmount.detach_stage(spec.stage)
    for path in spec.cleanup_paths:
        with contextlib.suppress(OSError):  # the starter removes it too
            rmtree_path(path)


def _only(error: BaseException) -> BaseException:
    """What a nursery wrapped, if it is a single one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _mount(spec: MountSpec, operations: Operations) -> tuple[int, Handshake | None]:
    """Open the session: the detached mount and what is left to agree on; -1 where fusermount3 attached it already."""
    read_only = spec.upper is None
    device = mount.open_device()
    try:
        detached = mount.create(device, spec.source, spec.flags, read_only=read_only)
    except PermissionError:
        os.close(device)
        if spec.target is None:
            raise
        options = mount.helper_options(spec.source, spec.flags, spec.target, read_only=read_only)
        try:
            pyfuse3.init(operations, spec.target, options)
        except RuntimeError as error:
            raise mount.HelperRefused(spec.target) from error
        return -1, None
    handshake = Handshake(device)
    pyfuse3.init(operations, f"/dev/fd/{handshake.fd}", set())
    return detached, handshake


async def _serve(
    spec: MountSpec,
    target: int,
    operations: Operations,
    waiting: Waiting,
    detached: int,
    handshake: Handshake | None,
    listener: socket.socket,
    starter: socket.socket,
    tell: Callable[[int, int], None],
) -> None:
    async with trio.open_nursery() as nursery:
        terminated = await nursery.start(_watch_for_termination)
        if handshake is not None:
            await handshake.complete()
            if _native.adapts_session():
                # A request may be taken back between the word that there is one and its being read.
                os.set_blocking(handshake.fd, False)
        nursery.start_soon(_answer_kernel, operations, waiting, nursery.cancel_scope)
        async with trio.open_nursery() as starting:
            starting.start_soon(_end_with, starter)
            await operations.started.wait()
            starting.cancel_scope.cancel()
        if spec.target is None:
            tell(holders.device_of(f"/proc/self/fd/{detached}"), detached)
            os.close(detached)  # or the mount would never be gone
            nursery.start_soon(_end_on_termination, terminated)
        else:
            if detached >= 0:
                number = holders.mount_id_of(f"/proc/self/fd/{detached}")
                mount.attach(detached, target)
                os.close(detached)
                mounted = mountpoints.with_id(number)
            else:
                mounted = mountpoints.find(spec.target)
            os.close(target)  # or what the mount lies on would be busy
            if mounted is None:
                raise mountpoints.NotMounted(spec.target)  # unmounted already
            if detached >= 0:
                enter_minimal_mount_namespace(mounted.mountpoint, _needed_later(spec))
            else:
                nursery.start_soon(_end_with_namespace, mounted)
            tell(mounted.device, -1)
            nursery.start_soon(_unmount_on_termination, terminated, mounted)
        starter.close()
        accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        nursery.start_soon(control_server.serve, accepting, operations, pyfuse3.terminate)


def _needed_later(spec: MountSpec) -> list[str]:
    """What is still found by its path while the mount is served; the layers are held open."""
    return [*sys.path, "/proc", os.devnull, *spec.cleanup_paths, *filter(None, [spec.log_path])]


async def _end_with(starter: socket.socket) -> None:
    """The starter says nothing more: if its socket is readable, it is gone."""
    await trio.lowlevel.wait_readable(starter)
    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


async def _answer_kernel(operations: Operations, waiting: Waiting, rest: trio.CancelScope) -> None:
    try:
        await pyfuse3.main()
        if waiting.is_disconnected():
            # First of all: umount(8) has not waited for us, and its caller may go on with the layers' disks.
            operations.filesystem.close()
    except* ConnectionAbortedError:
        log.info(
            "the kernel has given the connection up"
        )  # the end of a mount with requests under way
    finally:
        rest.cancel()


async def _watch_for_termination(
    task_status: trio.TaskStatus[trio.MemoryReceiveChannel[int]],
) -> None:
    """From here on SIGTERM and SIGINT are sent to the channel, and do nothing else."""
    send, receive = trio.open_memory_channel[int](1)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started(receive)
        async for number in signals:
            await send.send(number)


async def _end_on_termination(terminated: trio.MemoryReceiveChannel[int]) -> None:
    await terminated.receive()
    pyfuse3.terminate()


async def _unmount_on_termination(
    terminated: trio.MemoryReceiveChannel[int], mounted: Mount
) -> None:
    await terminated.receive()
    log.info("unmounting %s", mounted.mountpoint)
    child = unmount.detach_when_unused(mounted.id)
    _, status = await trio.to_thread.run_sync(os.waitpid, child, 0)
    if status == 0:
        await terminated.receive()  # the second one means it
    pyfuse3.terminate()


async def _end_with_namespace(mounted: Mount) -> None:
    """Unmount once this process is the last one in its mount namespace, which it keeps alive itself.

    One other process is watched at a time. Where PID 1 may not be seen, others may be there unseen, and none is.
    """
    if not os.path.exists("/proc/1"):
        return
    while (witness := holders.another_with(mounted.id)) >= 0:
        try:
            await trio.lowlevel.wait_readable(witness)
        finally:
            os.close(witness)
    log.info("the mount namespace has no other process: unmounting %s", mounted.mountpoint)
    os.kill(os.getpid(), signal.SIGTERM)
