"""The daemon's side of the control socket: answers `control`'s requests between those of the kernel.

Nothing that a client sends or leaves out holds the kernel's requests up: an answer is found in memory and in the
directories on one path, or by a child (`comparing`), lines and paths have a greatest length, and so many clients are
served at once. One more ends the connection that was idle for the longest time. So a silent client takes no place from
one that asks.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

import trio

from overlaykit import __version__
from overlaykit.fuse import control
from overlaykit.fuse.control import (
    Diff,
    End,
    Ending,
    Explain,
    Freeze,
    Layers,
    Measured,
    Stack,
    Stacked,
    Stats,
    Trace,
    Tracing,
    Version,
    Versions,
)
from overlaykit.overlay.explain import explain
from overlaykit.overlay.freezing import Places
from overlaykit.overlay.opened import OpenedLayer

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlaykit.fuse.comparing import Comparisons
    from overlaykit.fuse.control import Answer
    from overlaykit.fuse.operations import Operations
    from overlaykit.overlay.explanation import Explanation
    from overlaykit.overlay.filesystem import Filesystem

log: Final = logging.getLogger(__name__)

_MOST_CLIENTS: Final = 32
_FREEZES_WITH: Final = 3
_QUIET_WITHIN_SECONDS: Final = 5.0
"""How long a freeze waits for a moment without a copy-up or a sync under way."""
_MOST_DESCRIPTORS: Final = 8
_FD_BYTES: Final = 4
_LAST_SECONDS: Final = 1.0
"""For the last events of a trace, at the end of the mount."""


async def serve(
    listener: trio.SocketListener,
    operations: Operations,
    comparisons: Comparisons,
    end: Callable[[], None],
) -> None:
    """Answer requests until cancelled. `end` ends the connection with the kernel."""
    clients = _Clients()

    async def converse(stream: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            clients.add(scope)
            try:
                async with stream:
                    await _converse(
                        stream, operations, comparisons, end, lambda: clients.note_use(scope)
                    )
            except trio.BrokenResourceError:  # the client has gone
                pass
            except Exception:
                log.exception("a control request failed")
            finally:
                clients.remove(scope)

    await trio.serve_listeners(converse, [listener])


class _Clients:
    """The connections, each by the scope of its task: that which was idle for the longest time is the first."""

    def __init__(self) -> None:
        self._scopes: dict[trio.CancelScope, None] = {}

    def add(self, scope: trio.CancelScope) -> None:
        self._scopes[scope] = None
        if len(self._scopes) > _MOST_CLIENTS:
            idle = next(iter(self._scopes))
            self.remove(idle)
            idle.cancel()

    def note_use(self, scope: trio.CancelScope) -> None:
        if scope in self._scopes:
            self.remove(scope)
            self._scopes[scope] = None

    def remove(self, scope: trio.CancelScope) -> None:
        self._scopes.pop(scope, None)


async def _converse(
    stream: trio.SocketStream,
    operations: Operations,
    comparisons: Comparisons,
    end: Callable[[], None],
    note_use: Callable[[], None],
) -> None:
    with contextlib.closing(_Lines(stream)) as lines:
        await _converse_in(lines, stream, operations, comparisons, end, note_use)


async def _converse_in(
    lines: _Lines,
    stream: trio.SocketStream,
    operations: Operations,
    comparisons: Comparisons,
    end: Callable[[], None],
    note_use: Callable[[], None],
) -> None:
    while True:
        try:
            line = await lines.next()
        except OSError as error:
            await stream.send_all(control.refusal_line(error))
            return
        if line is None:
            return
        note_use()
        answer = _answer(line, operations, comparisons, stream, end)
        if isinstance(answer, bytes):
            await stream.send_all(answer)
        elif isinstance(answer, Trace):
            await _trace(stream, operations, note_use)
            return
        elif isinstance(answer, Freeze | Layers):
            await stream.send_all(await _changed(answer, operations, lines.take_descriptors()))
        elif not await _has_answered(comparisons, answer):
            return


async def _changed(
    request: Freeze | Layers, operations: Operations, descriptors: list[int]
) -> bytes:
    """The line that answers a request for other layers. Closes the descriptors that the mount does not keep."""
    try:
        with trio.move_on_after(_QUIET_WITHIN_SECONDS) as scope:
            await operations.be_quiet()
        if scope.cancelled_caught:
            raise OSError(errno.EBUSY, "requests have been under way all the time: try again")
        if isinstance(request, Freeze):
            operations.freeze(_places(request, descriptors), request.path)
        else:
            names = operations.restack(_lowers(request, descriptors, operations))
            descriptors.clear()
            await operations.expire(names)
        return control.answer_line(_stacked(operations.filesystem))
    except OSError as error:
        return control.refusal_line(error)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _places(request: Freeze, descriptors: list[int]) -> Places:
    """Raises: OSError."""
    if len(descriptors) != _FREEZES_WITH:
        raise OSError(errno.EINVAL, f"freeze: it comes with {_FREEZES_WITH} descriptors")
    for name in (request.upper, request.work):
        if not name or "/" in name or name in (".", ".."):
            raise OSError(errno.EINVAL, "freeze: upper and work are names")
    above_upper, above_work, frozen = descriptors
    return Places(above_upper, request.upper, above_work, request.work, frozen)


def _lowers(
    request: Layers, descriptors: list[int], operations: Operations
) -> list[int | OpenedLayer]:
    """The lowers that the mount is to have. Raises: OSError."""
    kept = [index for index in request.lowers if index >= 0]
    present = sum(not layer.writable for layer in operations.filesystem.tree.layers)
    if (
        not request.lowers
        or len(set(kept)) != len(kept)
        or max(kept, default=0) >= present
        or len(request.paths) != len(request.lowers) - len(kept)
        or len(descriptors) != 2 * len(request.paths)
    ):
        raise OSError(errno.EINVAL, "layers: each index once, and two descriptors for each path")
    new = iter(zip(request.paths, descriptors[::2], descriptors[1::2], strict=True))
    lowers: list[int | OpenedLayer] = []
    for index in request.lowers:
        if index >= 0:
            lowers.append(index)
            continue
        path, fd, lock = next(new)
        mounted_in = frozenset[bytes]() if request.alone else None
        lowers.append(OpenedLayer(fd, path, mounted_in=mounted_in, lock=lock))
    return lowers


async def _has_answered(comparisons: Comparisons, child: int) -> bool:
    """Wait until a child has answered a request. Returns: whether it has."""
    try:
        await trio.lowlevel.wait_readable(comparisons.ended(child))
    finally:
        status = comparisons.end(child)
    if status:
        log.warning("a comparison ended with status %d", status)
    return status == 0


async def _trace(
    stream: trio.SocketStream, operations: Operations, note_use: Callable[[], None]
) -> None:
    """Send events until the client ends the connection. What it is too slow for is lost: nothing waits for it."""
    try:
        trace = operations.begin_trace()
    except OSError as error:
        await stream.send_all(control.refusal_line(error))
        return
    try:
        await stream.send_all(control.answer_line(Tracing(operations.has_open)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_await_end, stream, nursery.cancel_scope)
            with contextlib.suppress(trio.BrokenResourceError):  # the client has gone
                while True:
                    lines = await trace.lines()
                    note_use()
                    await stream.send_all(lines)
            nursery.cancel_scope.cancel()
    finally:
        # At the end of the mount the last events are sent, if the client takes them.
        with (
            trio.CancelScope(shield=True, deadline=trio.current_time() + _LAST_SECONDS),
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            await stream.send_all(trace.rest())
        operations.end_trace()


async def _await_end(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Cancel once the client has ended the connection, or its side of it."""
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some(control.LONGEST_LINE):
            pass
    scope.cancel()


class _Lines:
    """The lines of a stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._held = bytearray()
        self._descriptors: list[int] = []

    def take_descriptors(self) -> list[int]:
        """Those that have come with the lines, the caller's to close."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def close(self) -> None:
        for descriptor in self.take_descriptors():
            os.close(descriptor)

    async def _receive(self) -> bytes:
        try:
            more, ancillary, *_ = await self._stream.socket.recvmsg(
                control.LONGEST_LINE,
                socket.CMSG_LEN(_MOST_DESCRIPTORS * _FD_BYTES),
                socket.MSG_CMSG_CLOEXEC,
            )
        except OSError as error:
            raise trio.BrokenResourceError from error
        for level, kind, packed in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = packed[: len(packed) - len(packed) % _FD_BYTES]
                self._descriptors += memoryview(whole).cast("i")
        if len(self._descriptors) > _MOST_DESCRIPTORS:
            self.close()
        return more

    async def next(self) -> bytes | None:
        """The next line; None: there is no more. Raises: OSError: EMSGSIZE; EINVAL: the last one has no newline."""
        while (at := self._held.find(b"\n")) < 0:
            if len(self._held) > control.LONGEST_LINE:
                break
            more = await self._receive()
            if not more:
                if self._held:
                    raise OSError(
                        errno.EINVAL, "the line is cut off: a request ends with a newline"
                    )
                return None
            self._held += more
        if not 0 <= at <= control.LONGEST_LINE:
            raise OSError(
                errno.EMSGSIZE, f"a request has up to {control.LONGEST_LINE} bytes: this has more"
            )
        line = bytes(self._held[:at])
        del self._held[: at + 1]
        return line


def _answer(
    line: bytes,
    operations: Operations,
    comparisons: Comparisons,
    stream: trio.SocketStream,
    end: Callable[[], None],
) -> bytes | int | Trace | Freeze | Layers:
    """The line that answers one, or the child that does; or the request, which takes longer."""
    try:
        request = control.parse_request(line)
        if isinstance(request, Trace | Freeze | Layers):
            return request
        if isinstance(request, End):
            # Even if the client has gone and gets no answer.
            end()
        if isinstance(request, Diff):
            return comparisons.start(operations.filesystem, request, stream.socket.fileno())
        return control.answer_line(_answer_of(request, operations))
    except OSError as error:
        return control.refusal_line(error)
    except Exception:
        log.exception("a control request failed")
        return control.refusal_line(OSError(errno.EIO, os.strerror(errno.EIO)))


def _answer_of(request: Version | Explain | Stats | Stack | End, operations: Operations) -> Answer:
    """Raises: OSError."""
    match request:
        case Version():
            return Versions(control.PROTOCOL, __version__, control.NAMES)
        case Explain(path=path):
            return _explained(operations.filesystem, path)
        case Stats():
            native = {} if operations.plane is None else operations.plane.latencies()
            requests, answered = dict(operations.requests), operations.answered()
            return Measured(
                operations.held(), requests, answered, operations.clock.latencies(), native
            )
        case Stack():
            return _stacked(operations.filesystem)
        case End():
            return Ending()


def _explained(filesystem: Filesystem, path: str) -> Explanation:
    raw = os.fsencode(path)
    control.check_path(raw)
    return explain(filesystem, raw)


def _stacked(filesystem: Filesystem) -> Stacked:
    tree = filesystem.tree
    upper = [layer.path for layer in tree.layers if layer.writable]
    lowers = tuple(layer.path for layer in tree.layers if not layer.writable)
    frozen = sum(layer.frozen for layer in tree.layers)
    return Stacked(
        upper[0] if upper else None,
        lowers,
        os.fsdecode(tree.markers.prefix),
        frozen,
        filesystem.work_path,
    )
