"""Comparisons for clients of the control socket, each in a child of the daemon.

A comparison reads directories and whole files, and holds all that it finds until renames are known: neither may be the
daemon's time or memory. A thread would take turns with the daemon's own (the interpreter's lock), so it is a child,
which takes the daemon's descriptors of the layers with it, and closes all others: the kernel ends the mount, and the
lock of the upper, with the last one.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import signal
import socket
import threading
import time
import warnings
from typing import TYPE_CHECKING, Final

from overlaykit import _native, progress, signals
from overlaykit.fuse import control, daemon_log
from overlaykit.overlay.opened import OpenedLayer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

    from overlaykit.fuse.control import Diff
    from overlaykit.overlay.filesystem import Filesystem
    from overlaykit.overlay.tree import Tree

log: Final = logging.getLogger(__name__)

_MOST: Final = 8
_PIECE: Final = 1 << 16
"""Bytes of lines that are sent together."""
_NICE: Final = 10
_SECOND: Final = 1.0
_PATIENCE: Final = 60.0
"""Seconds for which a client may read nothing."""
_LAST_DESCRIPTOR: Final = 0xFFFF_FFFF
_OF_PROCESS: Final = (0, 1, 2)


class Comparisons:
    """The children that compare."""

    def __init__(self) -> None:
        self._running: dict[int, int] = {}
        """Pidfds, by pid."""

    def start(self, filesystem: Filesystem, request: Diff, connection: int) -> int:
        """Start a child that answers `request` on a socket. Returns: its pid.

        Raises: OSError: EBUSY: so many run; EROFS: there is no upper; EOPNOTSUPP: owners are not known here.
        """
        tree = filesystem.tree
        if not tree.layers[0].writable:
            raise OSError(errno.EROFS, "the mount is read-only: nothing can be written in it")
        if tree.owners.users.unmapped >= 0 or tree.owners.groups.unmapped >= 0:
            message = (
                "the daemon is in a user namespace, and does not see who owns the layers' files"
            )
            raise OSError(errno.EOPNOTSUPP, f"{message}: compare the directories of 'stack'")
        if len(self._running) >= _MOST:
            raise OSError(errno.EBUSY, f"{_MOST} comparisons run already: ask again later")
        daemon = os.getpid()
        # A signal's handler would tell the daemon's loop of it.
        with signals.all_blocked(), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # other threads may hold locks: not of Python
            child = os.fork()
            if child == 0:
                _answer(tree, request, connection, daemon)
        self._running[child] = os.pidfd_open(child)
        return child

    def ended(self, child: int) -> int:
        """A descriptor that is readable once a child has ended."""
        return self._running[child]

    def end(self, child: int) -> int:
        """End a child. Returns: its exit status, -N for signal N."""
        pidfd = self._running.pop(child)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def end_all(self) -> None:
        """End all: the caller of umount(8) may take the layers' disks away."""
        for child in list(self._running):
            self.end(child)


def _answer(tree: Tree, request: Diff, connection: int, daemon: int) -> NoReturn:
    """The child's side. Every signal is blocked."""
    status = 1
    try:
        _leave_daemon(daemon)
        opened = [
            OpenedLayer(
                layer.root.fd(),
                layer.path,
                layer.mounted_in,
                idmapped=layer.idmapped,
                frozen=layer.frozen,
            )
            for layer in tree.layers
        ]
        _close_all_but((*_OF_PROCESS, connection, *daemon_log.held(), *(one.fd for one in opened)))
        lines = _Lines(connection)
        lines.watch()
        try:
            lines.put_last(control.answer_line(_compare(opened, request, lines)))
        except _Gone:
            pass
        except OSError as error:
            lines.put_last(control.refusal_line(error))
        except Exception:
            log.exception("a comparison failed")
            lines.put_last(control.refusal_line(OSError(errno.EIO, os.strerror(errno.EIO))))
        status = 0
    finally:
        os._exit(status)


def _leave_daemon(daemon: int) -> None:
    """End with the daemon, come after it, and take signals as a new process does."""
    _native.prctl(_native.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != daemon:
        os._exit(1)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signals.restore(set())
    # The daemon's session is one scheduling group (sched(7)): the programs of the view wait for the daemon.
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)


def _close_all_but(kept: Iterable[int]) -> None:
    first = 0
    for descriptor in sorted(set(kept)):
        if descriptor > first:
            _native.close_range(first, descriptor - 1, 0)
        first = descriptor + 1
    _native.close_range(first, _LAST_DESCRIPTOR, 0)


def _compare(opened: list[OpenedLayer], request: Diff, lines: _Lines) -> control.Compared:
    """Put a line for each change. Raises: OSError; _Gone."""
    from overlaykit.changes.plain import plain
    from overlaykit.changes.read import Comparison

    path = os.fsencode(request.path)
    control.check_path(path)
    beneath = os.path.normpath(b"/" + path).strip(b"/")
    count = 0
    with progress.shown(lines), Comparison.of_upper(opened[0], opened[1:]) as comparison:
        if beneath and not comparison.has(beneath):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), request.path)
        for change in comparison.changes(beneath, times=request.times):
            lines.put(b"%s%s}\n" % (control.CHANGE, json.dumps(plain(change)).encode()))
            count += 1
    return control.Compared(count)


class _Gone(Exception):
    """The client has gone, or reads nothing."""


class _Lines:
    """Sends lines to a client, and each second one that says how far the work is. Implements `progress.Show`."""

    def __init__(self, connection: int) -> None:
        self._socket = socket.socket(fileno=connection)
        self._lock = threading.Lock()
        self._held: list[bytes] = []
        self._size = 0
        self._sent = time.monotonic()
        self._work: tuple[str, int, int] = ("", 0, 0)

    def watch(self) -> None:
        """End this process when the client has gone, and tell a client that waits how far the work is."""
        threading.Thread(target=self._watch, daemon=True).start()

    def put(self, line: bytes) -> None:
        """Send a line, with others. Raises: _Gone."""
        self._held.append(line)
        self._size += len(line)
        if self._size >= _PIECE:
            self._send_held()

    def put_last(self, line: bytes) -> None:
        """Send the last line, unless the client has gone."""
        try:
            self._held.append(line)
            self._send_held()
        except _Gone:
            pass

    def show(self, what: str, done: int, total: int) -> None:
        self._work = (what, done, total)

    def end(self) -> None:
        self._work = ("", 0, 0)

    def _send_held(self) -> None:
        data, self._held, self._size = b"".join(self._held), [], 0
        with self._lock:
            self._send(data)

    def _send(self, data: bytes) -> None:
        """Raises: _Gone."""
        left = memoryview(data)
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while left:
            if not poll.poll(_PATIENCE * 1000):
                raise _Gone
            try:
                # The daemon's: it does not wait.
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                continue
            except OSError:
                raise _Gone from None
        self._sent = time.monotonic()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._socket, 0)
        while not poll.poll(_SECOND * 1000):  # the other end is not closed
            what, done, total = self._work
            if (
                what
                and time.monotonic() - self._sent >= _SECOND
                and self._lock.acquire(blocking=False)
            ):
                try:
                    self._send(control.progress_line(control.Progress(what, done, total)))
                except _Gone:
                    break
                finally:
                    self._lock.release()
        os._exit(0)
