"""What programs do with files, for a client of the control socket (docs/trace.md).

Nothing is switched on in the kernel: events are made of its requests. While a trace runs, the kernel keeps names of
files and missing names for a hundredth of a second: what a program does with a path at once is one request. The data
plane notes what it answers in memory of a fixed size, and Python reads the notes between two requests; `Operations`
notes what Python has answered. An event is sent once for a process, a kind and a path. No program waits for the client:
what it does not take is counted as lost.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import time
from typing import TYPE_CHECKING, Any, Final

import trio

from overlaykit import _native
from overlaykit.overlay.nodes import Directory, File

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlaykit.overlay.nodes import Table

ROOM: Final = 1 << 20
"""Bytes of the plane's notes. Python takes them when half is full, or every few milliseconds."""

KEPT_SECONDS: Final = 0.01
"""How long the kernel keeps a name while a trace runs. As in the plane (native/plane.c: BRIEFLY_NS)."""

_PAUSE: Final = 0.05
"""Seconds: to wake the client for each event would take longer than all the rest."""

MOST_EVENTS: Final = 1 << 13
"""That wait for the client."""

_MOST_KNOWN: Final = 1 << 16
"""Paths, and events that were sent. Beyond that all are forgotten: an event may be sent again."""

_NAME_SECONDS: Final = 1.0
"""How long the name of a process is taken for its own: the number may be another one's then."""

_EARLY_SECONDS: Final = 0.05
"""The same, of one that has just begun to execute another program."""

_LONGEST_NAME: Final = 15
"""TASK_COMM_LEN, without the NUL."""

_EXECUTED: Final = 0x20
"""FMODE_EXEC among the flags of an OPEN (include/linux/fs.h): execve(2) opens a program, or its interpreter."""

_NOTE: Final = struct.Struct("=IiQIIQQIIIHH")
"""A note, with the header of the request in it (include/uapi/linux/fuse.h: fuse_in_header)."""

_encoded: Final = json.JSONEncoder(separators=(",", ":")).encode
"""As json.dumps, which makes an encoder for each event."""

_HEAD: Final = 16
_ROOT: Final = 1

_LOOKUP, _SETATTR, _READLINK, _SYMLINK, _MKDIR, _UNLINK, _RMDIR, _RENAME = 1, 4, 5, 6, 9, 10, 11, 12
_OPEN, _READ, _WRITE, _READDIR, _CREATE, _READDIRPLUS, _RENAME2 = 14, 15, 16, 28, 35, 44, 45

_MAKING: Final = {_SYMLINK: 0, _MKDIR: 8, _CREATE: 16}
_REMOVING: Final = {_UNLINK: 0, _RMDIR: 0}
_RENAMING: Final = {_RENAME: 8, _RENAME2: 16}
"""How many bytes come before the name."""

_ABOUT_NODE: Final = {
    _SETATTR: "changed",
    _READLINK: "followed",
    _READ: "read",
    _WRITE: "written",
    _READDIR: "listed",
    _READDIRPLUS: "listed",
}
_OPCODES: Final = sum(
    1 << one for one in (_LOOKUP, _OPEN, *_MAKING, *_REMOVING, *_RENAMING, *_ABOUT_NODE)
)

_OF_PYTHON: Final = {
    "setattr": "changed",
    "setxattr": "changed",
    "removexattr": "changed",
    "readlink": "followed",
}
"""The events of requests whose first argument is a node. READ, WRITE and READDIR are among the plane's notes."""

_NAMED: Final = {
    "mknod": "made",
    "mkdir": "made",
    "symlink": "made",
    "create": "made",
    "unlink": "removed",
    "rmdir": "removed",
}
"""The events of requests whose arguments are a directory and a name."""


class Trace:
    """A trace that runs until `end`. One per process. `nodes`: the table of the mount.

    Ensures: paths are those at the time of the event, as far as requests have named them since the trace began.
    """

    def __init__(self, nodes: Table) -> None:
        self._nodes = nodes
        self._paths: dict[int, bytes] = {}
        self._sent: set[tuple[object, ...]] = set()
        self._programs: dict[int, tuple[str, float]] = {}
        self._executing: dict[int, tuple[str, bytes]] = {}
        self._openers: dict[int, int] = {}
        self._events: list[dict[str, object]] = []
        self._lost = 0
        self._now = 0.0
        _native.plane_trace(ROOM, _OPCODES)

    def end(self) -> None:
        """End it: the kernel keeps names again, each from the next reply about it on."""
        _native.plane_trace(0, 0)

    # What has happened

    def take(self) -> None:
        """Read the plane's notes."""
        raw, lost = _native.plane_trace(ROOM, _OPCODES)
        if not raw and not lost:
            return
        self._now = time.monotonic()
        self._lost += lost
        at = 0
        while at < len(raw):
            length, error, found, _, opcode, _, nodeid, _, _, pid, _, _ = _NOTE.unpack_from(raw, at)
            body = raw[at + _NOTE.size : at + _HEAD + length]
            at += _HEAD + length
            if opcode == _LOOKUP:
                self._looked_up(pid, nodeid, body[:-1], found if not error else 0, error)
            elif opcode == _OPEN:
                # Without OPEN, the first one is answered with ENOSYS.
                (flags,) = struct.unpack_from("=I", body)
                self._opened(pid, nodeid, flags, 0 if error == errno.ENOSYS else error)
            elif opcode in _ABOUT_NODE:
                kind = _ABOUT_NODE[opcode]
                self._add(pid or self._openers.get(nodeid, 0), kind, self._path(nodeid), error)
            elif opcode in _MAKING:
                name = body[_MAKING[opcode] :].split(b"\0", 1)[0]
                self._named("made", pid, nodeid, name, found if not error else 0, error)
                if opcode == _CREATE and not error:
                    self._openers[found] = pid
            elif opcode in _REMOVING:
                self._named("removed", pid, nodeid, body[:-1], 0, error)
            else:
                (onto,) = struct.unpack_from("=Q", body)
                old, new = body[_RENAMING[opcode] :].split(b"\0")[:2]
                self._renamed(pid, (nodeid, old), (onto, new), error)

    def note(self, request: str, args: Sequence[Any], result: Any, error: int) -> None:
        """Note a request that Python has answered: the name and the arguments of pyfuse3's handler."""
        self.take()  # what came before
        self._now = time.monotonic()
        pid = getattr(args[-1], "pid", 0) & 0x7FFFFFFF if args else 0
        if request == "lookup":
            self._looked_up(pid, args[0], args[1], 0 if error else result.st_ino, error)
        elif request == "open":
            self._opened(pid, args[0], args[1], error)
        elif request in _OF_PYTHON:
            self._add(pid, _OF_PYTHON[request], self._path(args[0]), error)
        elif request in _NAMED:
            entry = result[1] if request == "create" and not error else result
            made = getattr(entry, "st_ino", 0)
            self._named(_NAMED[request], pid, args[0], args[1], made, error)
            if request == "create":
                self._openers[made] = pid
        elif request == "link":
            self._add(pid, "linked", self._path(args[0]), error)
            self._named("made", pid, args[1], args[2], 0, error)
        elif request == "rename":
            self._renamed(pid, (args[0], args[1]), (args[2], args[3]), error)

    def _looked_up(self, pid: int, above: int, name: bytes, found: int, error: int) -> None:
        missing = not found and error in (0, errno.ENOENT)
        self._named(
            "missed" if missing else "found", pid, above, name, found, 0 if missing else error
        )

    def _opened(self, pid: int, nodeid: int, flags: int, error: int) -> None:
        path = self._path(nodeid)
        if flags & _EXECUTED:
            if pid not in self._executing:
                self._executing[pid] = self._program(pid), path
                self._programs.pop(pid, None)
            self._add(pid, "executed", path, error)
            return
        self._openers[nodeid] = pid
        if len(self._openers) > _MOST_KNOWN:
            self._openers.clear()
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        self._add(pid, "opened", path, error, **({"for": "writing"} if writes else {}))
        # The program runs: it is no longer the kernel that opens its interpreter.
        self._executing.pop(pid, None)

    def _named(self, kind: str, pid: int, above: int, name: bytes, found: int, error: int) -> None:
        path = self._below(above, name)
        if found:
            if len(self._paths) > _MOST_KNOWN:
                self._paths.clear()
            self._paths[found] = path
        self._add(pid, kind, path, error)

    def _renamed(
        self, pid: int, before: tuple[int, bytes], after: tuple[int, bytes], error: int
    ) -> None:
        old, new = self._below(*before), self._below(*after)
        self._add(pid, "renamed", old, error, to=os.fsdecode(new))
        if not error:
            self._paths.clear()

    def _add(self, pid: int, kind: str, path: bytes, error: int, **more: object) -> None:
        key = (pid, kind, path, error, *more.values())
        if key in self._sent or not path:
            return
        if len(self._events) >= MOST_EVENTS:
            self._lost += 1
            return
        if len(self._sent) > _MOST_KNOWN:
            self._sent.clear()
        self._sent.add(key)
        executing = self._executing.get(pid) if kind == "executed" else None
        program = self._program(pid) if executing is None else executing[0]
        event = {"kind": kind, "path": os.fsdecode(path), "program": program, "pid": pid, **more}
        if error:
            event["error"] = errno.errorcode.get(error, str(error))
        self._events.append(event)

    # Names

    def _below(self, above: int, name: bytes) -> bytes:
        directory = self._path(above)
        return b"" if not directory else directory.rstrip(b"/") + b"/" + name

    def _path(self, nodeid: int) -> bytes:
        """The path of a node; empty if it has none."""
        found = self._paths.get(nodeid)
        if found is not None:
            return found
        if nodeid == _ROOT:
            return b"/"
        place = _native.plane_place(nodeid)
        if place is None:
            node = self._nodes.by_nodeid.get(nodeid)
            if isinstance(node, Directory) and node.parent is not None and not node.orphaned:
                place = node.parent.nodeid, node.name
            elif isinstance(node, File) and node.links:
                place = node.links[0][0].nodeid, node.links[0][1]
        if place is None:
            return b""
        path = self._below(*place)
        if path:
            self._paths[nodeid] = path
        return path

    def _program(self, pid: int) -> str:
        """The name of a process, as it was last if it has ended: proc_pid_comm(5), or the file that it executes."""
        name, until = self._programs.get(pid, ("", 0.0))
        if self._now < until:
            return name
        before, executed = self._executing.get(pid, (None, b""))
        if executed:
            name = os.fsdecode(executed.rpartition(b"/")[2][:_LONGEST_NAME])
        seconds = _NAME_SECONDS
        with contextlib.suppress(OSError):  # it has ended, or the request is the kernel's own
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="surrogateescape") as file:
                found = file.read().removesuffix("\n")
            if found == before:  # execve(2) may not have changed it yet
                seconds = _EARLY_SECONDS
            else:
                name = found
        if len(self._programs) > _MOST_KNOWN:
            self._programs.clear()
        self._programs[pid] = name, self._now + seconds
        return name

    # For the client

    async def lines(self) -> bytes:
        """Wait for events. Returns: those that have come, a line each."""
        await trio.sleep(_PAUSE)
        while not (found := self.rest()):
            await trio.sleep(_PAUSE)
        return found

    def rest(self) -> bytes:
        """The events that have come, a line each."""
        self.take()
        events, self._events = self._events, []
        if self._lost:
            events.append({"lost": self._lost})
            self._lost = 0
        return "".join(f"{_encoded(one)}\n" for one in events).encode()
