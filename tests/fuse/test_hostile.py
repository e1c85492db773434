"""Requests that no kernel sends: each is answered once and not at length, and nothing outside the mount is touched."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import pytest

from ..overlay.seen import looked_at
from ..overlay.stack import Stack
from ..patience import patience
from ..posix.table import Dir, File, Layer, Symlink

pytestmark = [pytest.mark.usefixtures("sandbox"), pytest.mark.as_each_user]

HEADER: Final = struct.Struct("=IIQQIIIHH")
OUT: Final = struct.Struct("=IiQ")
ENTRY: Final = struct.Struct("=QQQQII")
ATTR_BYTES: Final = 88
OPEN_OUT_BYTES: Final = 16
ROOT: Final = 1
PATIENCE_SECONDS: Final = patience(60)
REPLY_BYTES: Final = 1 << 21

# include/uapi/linux/fuse.h
LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS = range(8, 18)
RELEASE, FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT = (18, *range(20, 27))
OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, GETLK, SETLK, SETLKW, ACCESS, CREATE = range(27, 36)
INTERRUPT, BMAP, DESTROY, IOCTL, POLL, NOTIFY_REPLY, BATCH_FORGET = range(36, 43)
FALLOCATE, READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE = range(43, 48)
LAST_OPCODE: Final = 60

SEEDS, REQUESTS = (range(20), 5000) if "OVERLAYKIT_PROOFS" in os.environ else (range(1), 1000)

WITHOUT_REPLY: Final = (FORGET, BATCH_FORGET, NOTIFY_REPLY)
OFFERED: Final = (
    1 << 3 | 1 << 6 | 1 << 13 | 1 << 14 | 1 << 16 | 1 << 20 | 1 << 23 | 1 << 28 | 1 << 29
)
"""Flags of INIT: ATOMIC_O_TRUNC, DONT_MASK, DO_READDIRPLUS, READDIRPLUS_AUTO, WRITEBACK_CACHE, POSIX_ACL,
CACHE_SYMLINKS, HANDLE_KILLPRIV_V2, SETXATTR_EXT."""


@dataclass
class Kernel:
    """The kernel's side of a session. `replies`: how many each request got that has been sent."""

    device: socket.socket
    unique: int = 0
    last: str = ""
    replies: Counter[int] = field(default_factory=Counter)

    def initialize(self) -> None:
        reply = self.ask(INIT, 0, struct.pack("=IIII", 7, 36, 1 << 20, OFFERED) + bytes(48))
        assert reply[0] == 0
        # libfuse's own reply: the kernel would refuse it.
        assert self.receive(PATIENCE_SECONDS) is not None
        self.replies.clear()

    def send(self, opcode: int, nodeid: int, body: bytes, size: int | None = None) -> int:
        """Send a request. `size`: that it says to have. Returns: its number."""
        self.unique += 2
        self.last = f"{opcode} of {nodeid:x}: {body[:300]!r}, {size}"
        length = HEADER.size + len(body) if size is None else size
        self.device.send(
            HEADER.pack(
                length, opcode, self.unique, nodeid, os.geteuid(), os.getegid(), os.getpid(), 0, 0
            )
            + body
        )
        return self.unique

    def receive(self, wait_seconds: float) -> tuple[int, int, bytes] | None:
        """Number, errno and data of a reply; None if none comes in time. Notifications are passed over."""
        while select.select([self.device], [], [], wait_seconds)[0]:
            raw = self.device.recv(REPLY_BYTES)
            assert raw, f"the daemon has ended after {self.last}"
            length, error, unique = OUT.unpack_from(raw)
            assert length == len(raw)
            if unique == 0:
                continue
            assert error <= 0
            assert error == 0 or length == OUT.size
            self.replies[unique] += 1
            return unique, -error, raw[OUT.size :]
        return None

    def ask(self, opcode: int, nodeid: int, body: bytes) -> tuple[int, bytes]:
        """Send a request, and wait for its reply. Others that come before are counted."""
        unique = self.send(opcode, nodeid, body)
        while (reply := self.receive(PATIENCE_SECONDS)) is not None:
            if reply[0] == unique:
                return reply[1:]
        raise AssertionError(f"no reply to {opcode}")


class Hostile:
    """Random requests, most with one thing that is wrong."""

    def __init__(self, seed: int, kernel: Kernel) -> None:
        self.chance = random.Random(seed)
        self.kernel = kernel
        self.nodeids = [ROOT]
        self.handles = [0]

    def name(self) -> bytes:
        good = (b"d", b"m", b"f", b"g", b"s", b"both", b"big", b"new", b"new1", b"new2", b"new3")
        bad = (
            b"",
            b".",
            b"..",
            b"/",
            b"/etc/passwd",
            b"../outside/secret",
            b"../../outside/secret",
            b"../outside/new",
            b"d/../../outside/new",
            b"d/f",
            b"n" * 255,
            b"n" * 256,
            b"n" * 5000,
            b".wh.f",
            b".wh..wh..opq",
            b"\xff\xfe",
            b"#1",
            b"a\nb",
        )
        return self.chance.choice(good if self.chance.random() < 0.7 else bad)

    def string(self, text: bytes) -> bytes:
        return text + (b"" if self.chance.random() < 0.05 else b"\0")

    def number(self, *likely: int, bits: int = 64) -> int:
        extreme = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
        if likely and self.chance.random() < 0.8:
            return self.chance.choice(likely) % (1 << bits)
        return self.chance.choice((*extreme, self.chance.getrandbits(64))) % (1 << bits)

    def nodeid(self) -> int:
        return self.number(*self.nodeids)

    def handle(self) -> int:
        return self.number(*self.handles, 1 << 61, 1 << 61 | 1, 1 << 61 | 10**6)

    def size(self, *likely: int) -> int:
        return self.number(*likely, bits=32)

    def xattr(self) -> bytes:
        names = (
            b"user.a",
            b"user.overlay.opaque",
            b"trusted.overlay.redirect",
            b"system.posix_acl_access",
            b"security.capability",
            b"",
            b"user." + b"n" * 300,
        )
        return self.string(self.chance.choice(names))

    def setattr(self) -> bytes:
        valid = self.number(1, 8, 16 | 32, 1 << 7 | 1 << 8, 1 << 10 | 32, 2 | 4, bits=32)
        times = (0, 10**9, 2**33, 2**62, 2**63 - 1, 2**64 - 1)
        nanoseconds = (0, 999_999_999, 10**9, 2**30 - 1, 2**30 - 2, 2**32 - 1)
        return struct.pack(
            "=IIQQQQQQIIIIIIII",
            valid,
            0,
            self.handle(),
            self.number(0, 5, 10**6),
            0,
            *(self.chance.choice(times) for _ in range(3)),
            *(self.chance.choice(nanoseconds) for _ in range(3)),
            self.number(0o644, 0o4755, 0, bits=32),
            0,
            self.number(os.geteuid(), bits=32),
            self.number(os.getegid(), bits=32),
            0,
        )

    def read(self) -> bytes:
        # What a socket takes has a limit.
        size = self.size(0, 1, 100, 4096, 1 << 17)
        return struct.pack("=QQIIQII", self.handle(), self.number(0, 1, 3, 4096), size, 0, 0, 0, 0)

    def write(self) -> bytes:
        data = self.chance.randbytes(self.chance.choice((0, 1, 100, 5000)))
        size = self.size(len(data), len(data), len(data) + 1, 1 << 20)
        at = self.number(0, 10, 5000)
        flags = self.number(0, 1, 4, bits=32)
        return struct.pack("=QQIIQII", self.handle(), at, size, flags, 0, 0, 0) + data

    def batch(self) -> bytes:
        forgotten = [(self.nodeid(), self.number(1, 2)) for _ in range(self.chance.randrange(4))]
        count = self.size(len(forgotten), len(forgotten) + 1)
        return struct.pack("=II", count, 0) + b"".join(
            struct.pack("=QQ", *one) for one in forgotten
        )

    def setxattr(self) -> bytes:
        value = self.chance.randbytes(self.chance.choice((0, 1, 12, 100)))
        size = self.size(len(value), len(value), len(value) + 1)
        return struct.pack("=IIII", size, self.size(0, 1, 2), self.size(0, 1), 0) + (
            self.xattr() + value
        )

    def body(self, opcode: int) -> bytes:
        pack = struct.pack

        def name() -> bytes:
            return self.string(self.name())

        makers: dict[int, Callable[[], bytes]] = {
            LOOKUP: name,
            FORGET: lambda: pack("=Q", self.number(1, 2, 3)),
            GETATTR: lambda: pack("=IIQ", self.size(0, 1), 0, self.handle()),
            SETATTR: self.setattr,
            READLINK: lambda: b"",
            SYMLINK: lambda: name() + name(),
            MKNOD: lambda: (
                pack("=IIII", self.size(0o100644, 0o10644, 0o20644, 0o40755), self.size(0), 0o22, 0)
                + name()
            ),
            MKDIR: lambda: pack("=II", self.size(0o755), 0o22) + name(),
            UNLINK: name,
            RMDIR: name,
            RENAME: lambda: pack("=Q", self.nodeid()) + name() + name(),
            LINK: lambda: pack("=Q", self.nodeid()) + name(),
            OPEN: lambda: pack("=II", self.size(0, 1, 2, os.O_TRUNC | 2, os.O_APPEND | 1), 0),
            READ: self.read,
            WRITE: self.write,
            STATFS: lambda: b"",
            RELEASE: lambda: pack("=QIIQ", self.handle(), 0, 0, 0),
            FSYNC: lambda: pack("=QII", self.handle(), self.size(0, 1), 0),
            SETXATTR: self.setxattr,
            GETXATTR: lambda: pack("=II", self.size(0, 1, 100), 0) + self.xattr(),
            LISTXATTR: lambda: pack("=II", self.size(0, 1, 100), 0),
            REMOVEXATTR: self.xattr,
            FLUSH: lambda: pack("=QIIQ", self.handle(), 0, 0, 0),
            INIT: lambda: (
                pack("=IIII", 7, self.size(36), self.size(1 << 20), self.size(OFFERED)) + bytes(48)
            ),
            READDIR: self.read,
            READDIRPLUS: self.read,
            CREATE: lambda: (
                pack("=IIII", self.size(os.O_RDWR, os.O_TRUNC), self.size(0o100644), 0o22, 0)
                + name()
            ),
            INTERRUPT: lambda: pack("=Q", self.number(2, 4)),
            BATCH_FORGET: self.batch,
            RENAME2: lambda: pack("=QII", self.nodeid(), self.size(0, 1, 2), 0) + name() + name(),
            LSEEK: lambda: pack("=QQII", self.handle(), self.number(0), self.size(3, 4), 0),
        }
        maker = makers.get(opcode)
        if maker is None or self.chance.random() < 0.03:
            return self.chance.randbytes(self.chance.choice((0, 1, 7, 8, 16, 40, 88, 200)))
        body = bytearray(maker())
        if self.chance.random() < 0.1:
            del body[self.chance.randrange(len(body) + 1) :]
        if body and self.chance.random() < 0.05:
            body[self.chance.randrange(len(body))] = self.chance.randrange(256)
        return bytes(body)

    def send(self) -> int:
        """Send a request, and take the replies that come. Returns: its number."""
        often = (
            LOOKUP,
            LOOKUP,
            LOOKUP,
            CREATE,
            OPEN,
            READ,
            WRITE,
            READDIRPLUS,
            SETATTR,
            RENAME2,
            SETXATTR,
        )
        opcode = self.chance.choice((*range(1, LAST_OPCODE), *often, *often))
        body = self.body(opcode)
        size = None
        if self.chance.random() < 0.02:
            size = self.number(0, HEADER.size, HEADER.size + len(body) + 1, 1 << 20, bits=32)
        nodeid = self.nodeid()
        unique = self.kernel.send(opcode, nodeid, body, size)
        while (reply := self.kernel.receive(0)) is not None or not self.is_answered(unique, opcode):
            reply = reply or self.kernel.receive(PATIENCE_SECONDS)
            if reply is None:
                raise AssertionError(f"no reply to {opcode} with {body!r}")
            if reply[0] == unique:
                self.take(opcode, body, reply[1], reply[2])
        return 0 if opcode in (*WITHOUT_REPLY, INTERRUPT) else unique

    def is_answered(self, unique: int, opcode: int) -> bool:
        return opcode in (*WITHOUT_REPLY, INTERRUPT) or self.kernel.replies[unique] > 0

    def take(self, opcode: int, body: bytes, error: int, data: bytes) -> None:
        """Check a reply, and note what later requests may name."""
        assert error < 4096
        if opcode in (READ, READDIR, READDIRPLUS) and len(body) >= 20:
            assert len(data) <= struct.unpack_from("=I", body, 16)[0]
        if opcode in (GETXATTR, LISTXATTR) and len(body) >= 4:
            room = struct.unpack_from("=I", body)[0]
            assert len(data) <= (room or 8)
        if error:
            return
        if opcode in (LOOKUP, CREATE, MKDIR, MKNOD, SYMLINK, LINK):
            expected = ENTRY.size + ATTR_BYTES + (OPEN_OUT_BYTES if opcode == CREATE else 0)
            assert len(data) == expected
            (nodeid,) = struct.unpack_from("=Q", data)
            if nodeid:
                self.nodeids = [*self.nodeids[-30:], nodeid]
        if opcode in (OPEN, CREATE):
            self.handles = [*self.handles[-30:], *struct.unpack("=Q", data[-16:-8])]


@pytest.mark.parametrize("plane", ["on", "off", "no_open"])
@pytest.mark.parametrize("seed", SEEDS)
def test_hostile_requests_are_answered_once_and_touch_nothing_else(
    stack: Stack, seed: int, plane: str
) -> None:
    stack.prefix = "user"
    tree: Layer = {
        "d/f": File(b"f" * 5000),
        "d/g": File(b"g"),
        "d/s": Symlink("f"),
        "both/f": File(b"1"),
    }
    stack.add({**tree, "m/f": File(b"f"), "big": File(b"b" * (3 << 20))})
    stack.add({"both/g": File(b"2"), "m/g": File(b"g"), "m/d": Dir()})
    outside = os.path.join(stack.directory, "outside")
    os.mkdir(outside)
    for path in (outside, stack.upper, stack.work):
        os.makedirs(path, exist_ok=True)
    with open(os.path.join(outside, "secret"), "w") as file:
        file.write("secret")
    around = sorted(os.listdir(stack.directory))
    watched = [outside, *stack.lowers]
    before = [looked_at(path) for path in watched]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = os.path.join(os.path.dirname(__file__), "socket_session.py")
    with subprocess.Popen(
        [
            sys.executable,
            "-P",
            program,
            str(theirs.fileno()),
            stack.upper,
            stack.work,
            *stack.lowers,
        ],
        pass_fds=[theirs.fileno()],
        stderr=subprocess.PIPE,
        env=os.environ | {"DATA_PLANE": plane, "NO_OPEN": "on" if plane == "no_open" else "off"},
    ) as daemon:
        theirs.close()
        kernel = Kernel(ours)
        kernel.initialize()
        hostile = Hostile(seed, kernel)
        try:
            sent = [hostile.send() for _ in range(REQUESTS)]
        except BaseException as error:
            daemon.kill()
            assert daemon.stderr is not None
            error.add_note(daemon.stderr.read().decode())
            raise
        # What still serves answers as ever: the last of the replies have come then.
        assert kernel.ask(LOOKUP, ROOT, b"missing\0")[0] in (0, errno.ENOENT)
        assert kernel.ask(GETATTR, ROOT, bytes(16))[0] == 0
        assert [kernel.replies[unique] for unique in sent if unique] == [1] * len(
            [unique for unique in sent if unique]
        )
        assert all(count == 1 for count in kernel.replies.values())
        daemon.kill()
        assert daemon.stderr is not None
        wrong = daemon.stderr.read().decode()
        # A number too large for an argument is an error like any other.
        assert wrong.count("Traceback") == wrong.count("OverflowError")
    assert [looked_at(path) for path in watched] == before
    assert sorted(os.listdir(stack.directory)) == around
