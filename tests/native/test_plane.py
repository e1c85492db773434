"""The data plane, with requests written by hand on a socket in place of /dev/fuse."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import resource
import signal
import socket
import stat
import struct
import time
from typing import Final

import pytest

from overlaykit import _native

from .sandbox import sandboxed, sandboxed_on_disk

LOOKUP, FORGET, GETATTR, READLINK, OPEN, READ = 1, 2, 3, 5, 14, 15
RELEASE, GETXATTR, LISTXATTR, FLUSH, BATCH_FORGET = 18, 22, 23, 25, 42
UNLINK, RENAME, RENAME2, READDIR, READDIRPLUS, WRITE = 10, 12, 45, 28, 44, 16
SETATTR, SYMLINK, MKDIR, RMDIR, FSYNC, LINK, CREATE = 4, 6, 9, 11, 20, 13, 35
INTERRUPT = 36
ROOT: Final = 1
DESCRIPTORS: Final = 8
OUR_HANDLE: Final = _native.OUR_HANDLE
FIRST_HANDLE: Final = OUR_HANDLE | 1 << 32 | 1
RESENT: Final = 1 << 63

_HEADER: Final = struct.Struct("=IIQQIIIHH")
_OUT: Final = struct.Struct("=IiQ")
_ENTRY: Final = struct.Struct("=QQQQII")
_ATTR: Final = struct.Struct("=QQQQQQIIIIIIIIII")
_DIRENT: Final = struct.Struct("=QQII")


class Buffer(ctypes.Structure):
    """struct fuse_buf of libfuse."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("mem", ctypes.c_void_p),
        ("fd", ctypes.c_int),
        ("pos", ctypes.c_long),
    )


def start(directories: int = DESCRIPTORS, seconds: int = 60, *, keeps_names: bool = False) -> None:
    none = (0xFFFFFFFF, 0xFFFFFFFF)
    _native.plane_start(
        seconds,
        0,
        none,
        none,
        False,
        True,
        False,
        False,
        directories,
        DESCRIPTORS,
        False,
        keeps_names,
    )


class Wire:
    """The kernel's side of a session."""

    def __init__(self) -> None:
        self.ours, self.device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.device.setblocking(False)
        self.ours.setblocking(False)
        self.library = ctypes.CDLL(_native.__file__)
        self.buffer = Buffer()
        self.unique = 0
        start()

    def send(self, raw: bytes) -> bytes | None:
        """Send a request. Returns: what is passed to Python; None if nothing is."""
        self.ours.send(raw)
        _native.plane_wait(self.device.fileno(), -1, 0, False)
        result = ctypes.c_int(0)
        assert self.library.plane_receive(ctypes.byref(self.buffer), ctypes.byref(result))
        return ctypes.string_at(self.buffer.mem, result.value) if result.value > 0 else None

    def ask(self, opcode: int, nodeid: int, body: bytes = b"") -> tuple[int, bytes] | None:
        """Send a request. Returns: the errno and the data of the reply; None if it is Python's."""
        self.unique += 2
        length = _HEADER.size + len(body)
        passed = self.send(_HEADER.pack(length, opcode, self.unique, nodeid, 0, 0, 0, 0, 0) + body)
        try:
            raw = self.ours.recv(1 << 21)
        except BlockingIOError:
            assert passed is not None or opcode in (FORGET, BATCH_FORGET)
            return None
        assert passed is None
        length, error, unique = _OUT.unpack_from(raw)
        assert (length, unique) == (len(raw), self.unique)
        return -error, raw[_OUT.size :]

    def look_up(self, directory: int, name: bytes) -> int | None:
        """The nodeid of a name, 0 if it is missing; None if it is Python's to say."""
        reply = self.ask(LOOKUP, directory, name + b"\0")
        if reply is None:
            return None
        assert reply[0] == 0
        nodeid: int = _ENTRY.unpack_from(reply[1])[0]
        return nodeid

    def list_all(
        self, directory: int, room: int, opcode: int = READDIRPLUS
    ) -> dict[bytes, tuple[int, int, int]]:
        """The names of all replies to READDIRPLUS, of which each has others, as `list`."""
        seen: dict[bytes, tuple[int, int, int]] = {}
        offset = 0
        while found := self.list(directory, offset, room, opcode):
            assert not seen.keys() & found.keys()
            seen |= found
            offset = max(position for _, _, position in found.values())
        return seen

    def list(
        self, directory: int, offset: int = 0, room: int = 1 << 16, opcode: int = READDIRPLUS
    ) -> dict[bytes, tuple[int, int, int]]:
        """The names of a reply to READDIRPLUS: nodeid, inode number and offset of each.

        Those of READDIR have no nodeid.
        """
        reply = self.ask(opcode, directory, struct.pack("=QQIIQII", 0, offset, room, 0, 0, 0, 0))
        assert reply is not None
        assert reply[0] == 0
        assert len(reply[1]) <= room
        before = _ENTRY.size + _ATTR.size if opcode == READDIRPLUS else 0
        found, at = {}, 0
        while at < len(reply[1]):
            nodeid = struct.unpack_from("=Q", reply[1], at)[0] if before else 0
            inode, position, length, _ = _DIRENT.unpack_from(reply[1], at + before)
            name_at = at + before + _DIRENT.size
            found[reply[1][name_at : name_at + length]] = nodeid, inode, position
            at = (name_at + length + 7) // 8 * 8
        return found


def grant(lists: bool = True) -> None:
    """Grant the directory `layer`, which is made if it is missing, as the root."""
    os.makedirs("layer", exist_ok=True)
    directory = os.open("layer", os.O_PATH)
    assert _native.plane_grant(ROOT, ROOT, directory, 0, lists, lists)
    os.close(directory)


def grant_changes(*names: str) -> None:
    """Grant the directory `layer` for changes, as the root. `names`: what the directory `lower` has."""
    descriptors = []
    for directory in ("layer", "lower"):
        os.makedirs(directory, exist_ok=True)
        descriptors.append(os.open(directory, os.O_PATH))
    for name in names:
        os.mkdir(f"lower/{name}")
    assert _native.plane_grant_changes(ROOT, descriptors[0], 0, descriptors[1:])
    for descriptor in descriptors:
        os.close(descriptor)


def create(wire: Wire, directory: int, name: bytes, mode: int = 0o644) -> tuple[int, int] | None:
    """The nodeid and the handle of a new file; None if it is Python's to make."""
    body = struct.pack("=IIII", os.O_WRONLY, 0o100000 | mode, 0o22, 0) + name + b"\0"
    reply = wire.ask(CREATE, directory, body)
    if reply is None:
        return None
    assert reply[0] == 0
    (nodeid,) = struct.unpack_from("=Q", reply[1])
    (handle,) = struct.unpack_from("=Q", reply[1], _ENTRY.size + _ATTR.size)
    return nodeid, handle


def mkdir(wire: Wire, directory: int, name: bytes) -> int | None:
    reply = wire.ask(MKDIR, directory, struct.pack("=II", 0o755, 0o22) + name + b"\0")
    return None if reply is None else _ENTRY.unpack_from(reply[1])[0]


def write_to(
    wire: Wire, nodeid: int, handle: int, data: bytes, at: int = 0, flags: int = 0
) -> object:
    fixed = struct.pack("=QQIIQII", handle, at, len(data), flags, 0, 0, 0)
    return wire.ask(WRITE, nodeid, fixed + data)


def rename(wire: Wire, old: int, name: bytes, new: int, new_name: bytes, flags: int = 0) -> object:
    fixed = struct.pack("=QII", new, flags, 0)
    return wire.ask(RENAME2, old, fixed + name + b"\0" + new_name + b"\0")


def write(name: str, content: str = "") -> os.stat_result:
    """Make a file in the directory `layer`."""
    os.makedirs(os.path.dirname(f"layer/{name}"), exist_ok=True)
    with open(f"layer/{name}", "w") as file:
        file.write(content)
    return os.stat(f"layer/{name}")


def handle_of(reply: tuple[int, bytes] | None) -> int:
    assert reply is not None
    assert reply[0] == 0
    handle: int = struct.unpack_from("=Q", reply[1])[0]
    return handle


def read(wire: Wire, nodeid: int, handle: int) -> tuple[int, bytes] | None:
    return wire.ask(READ, nodeid, struct.pack("=QQIIQII", handle, 0, 4096, 0, 0, 0, 0))


def adopt(crossings: list[_native._Crossing]) -> list[tuple[int, bytes, int]]:
    """Take over what crosses. Returns: directory above, name and lookups of each."""
    for _, _, nodeid, *_ in crossings:
        assert _native.plane_claim(nodeid) > 1
        assert _native.plane_crossed(nodeid)
    return [crossing[:2] + crossing[3:4] for crossing in crossings]


@sandboxed
def test_names_are_found_missed_and_forgotten() -> None:
    st = write("f", "content")
    wire = Wire()
    grant()
    reply = wire.ask(LOOKUP, ROOT, b"f\0")
    assert reply is not None
    nodeid, generation, valid, attributes_valid, _, _ = _ENTRY.unpack_from(reply[1])
    assert (nodeid, valid, attributes_valid) == (st.st_ino, 60, 60)
    assert generation > 1
    fields = _ATTR.unpack_from(reply[1], _ENTRY.size)
    assert fields[:2] == (st.st_ino, len("content"))
    assert fields[9:13] == (st.st_mode, 1, st.st_uid, st.st_gid)
    assert wire.look_up(ROOT, b"missing") == 0
    assert wire.look_up(ROOT, b"f") == st.st_ino
    assert _native.plane_held()[:2] == (1, 2)
    assert wire.ask(FORGET, nodeid, struct.pack("=Q", 1)) is None
    assert _native.plane_held()[:2] == (1, 1)
    body = struct.pack("=IIQQ", 1, 0, nodeid, 1)
    assert wire.ask(BATCH_FORGET, 0, body) is None
    assert _native.plane_held()[:2] == (0, 0)


@sandboxed
def test_directories_below_are_served_and_closed_when_they_are_many() -> None:
    for number in range(30):
        write(f"{number}/below/f")
    wire = Wire()
    grant()
    found = {}
    for number in range(30):
        directory = wire.look_up(ROOT, b"%d" % number)
        assert directory
        below = wire.look_up(directory, b"below")
        assert below
        found[number] = wire.look_up(below, b"f")
        assert _native.plane_held()[3] <= DESCRIPTORS + 2
    assert found == {number: os.stat(f"layer/{number}/below/f").st_ino for number in range(30)}


@sandboxed
def test_what_may_mean_more_than_it_seems_is_pythons() -> None:
    write("linked")
    os.link("layer/linked", "layer/link")
    write(".wh.gone")
    os.mkfifo("layer/fifo")
    write("sparse")
    os.truncate("layer/sparse", 1 << 20)  # as a metacopy is
    wire = Wire()
    grant()
    for name in (b"linked", b"sparse", b".wh.gone", b"fifo", b"n" * 256):
        assert wire.look_up(ROOT, name) is None


@sandboxed_on_disk
def test_a_directory_with_a_marker_is_pythons() -> None:
    write("plain/f")
    write("marked/f")
    os.setxattr("layer/marked", "user.overlay.opaque", b"x")
    os.setxattr("layer/plain", "user.mine", b"x")
    wire = Wire()
    grant()
    plain, marked = wire.look_up(ROOT, b"plain"), wire.look_up(ROOT, b"marked")
    assert plain
    assert marked
    assert wire.look_up(plain, b"f")
    assert wire.look_up(marked, b"f") is None
    assert adopt(_native.plane_crossings()) == [(ROOT, b"marked", 1)]
    directory = os.open("layer/marked", os.O_PATH)
    assert not _native.plane_grant(marked, ROOT, directory, 0, True, True)


@sandboxed
def test_a_file_is_read_and_never_opened_for_writing() -> None:
    write("f", "content")
    wire = Wire()
    grant()
    nodeid = wire.look_up(ROOT, b"f")
    assert nodeid
    handle = handle_of(wire.ask(OPEN, nodeid, struct.pack("=II", os.O_RDONLY, 0)))
    assert read(wire, nodeid, handle) == (0, b"content")
    assert wire.ask(WRITE, nodeid, struct.pack("=QQIIQII", handle, 0, 1, 0, 0, 0, 0) + b"x") == (
        errno.EBADF,
        b"",
    )
    # Its last lookup goes before it is closed.
    assert wire.ask(FORGET, nodeid, struct.pack("=Q", 1)) is None
    assert read(wire, nodeid, handle) == (0, b"content")
    assert wire.ask(RELEASE, nodeid, struct.pack("=QIIQ", handle, 0, 0, 0)) == (0, b"")
    assert read(wire, nodeid, handle) == (errno.EBADF, b"")
    assert _native.plane_held()[:3] == (0, 0, 0)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        other = wire.look_up(ROOT, b"f")
        assert other is None or wire.ask(OPEN, other, struct.pack("=II", flags, 0)) is None
    with open("layer/f") as file:
        assert file.read() == "content"


@sandboxed
def test_an_open_file_that_crosses_goes_on_with_pythons_handle() -> None:
    write("f", "content")
    wire = Wire()
    grant()
    nodeid = wire.look_up(ROOT, b"f")
    assert nodeid
    handles = [handle_of(wire.ask(OPEN, nodeid, struct.pack("=II", 0, 0))) for _ in range(2)]
    assert wire.ask(OPEN, nodeid, struct.pack("=II", os.O_RDWR, 0)) is None
    ((above, name, crossed, lookups, opened, *_),) = _native.plane_crossings()
    assert (above, name, crossed, lookups) == (ROOT, b"f", nodeid, 1)
    assert opened == [(handle, False) for handle in handles]
    assert _native.plane_claim(nodeid)
    assert _native.plane_crossed(nodeid)
    _native.plane_bind(handles[0], 77)
    _native.plane_bind(handles[1], 0)  # Python could not open it
    raw = wire.send(
        _HEADER.pack(80, READ, 100, nodeid, 0, 0, 0, 0, 0)
        + struct.pack("=QQIIQII", handles[0], 0, 10, 0, 0, 0, 0)
    )
    assert raw is not None
    assert struct.unpack_from("=Q", raw, _HEADER.size) == (77,)
    assert read(wire, nodeid, handles[1]) == (errno.EIO, b"")
    assert _native.plane_held()[:3] == (0, 0, 1)


@sandboxed
def test_a_chain_of_directories_crosses_from_the_top() -> None:
    write("a/b/c")
    wire = Wire()
    grant()
    a = wire.look_up(ROOT, b"a")
    assert a
    b = wire.look_up(a, b"b")
    assert b
    assert wire.look_up(b, b"c")
    assert wire.ask(UNLINK, b, b"c\0") is None
    crossings = _native.plane_crossings()
    assert _native.plane_claim(b) > 1
    _native.plane_drop(b)
    assert [crossing[:2] for crossing in crossings] == [(ROOT, b"a"), (a, b"b")]
    # The name in the request is taken over when Python looks it up.
    fetched = _native.plane_fetch(b, b"c")
    assert [crossing[1] for crossing in fetched] in ([], [b"c"])


@sandboxed
def test_a_nodeid_is_given_out_once() -> None:
    st = write("f")
    wire = Wire()
    grant()
    other = write("other")
    assert _native.plane_claim(other.st_ino) > 1
    assert wire.look_up(ROOT, b"other") is None
    assert wire.look_up(ROOT, b"f") == st.st_ino
    assert _native.plane_claim(st.st_ino) == 0
    fetched = _native.plane_fetch(ROOT, b"f")
    assert [crossing[:5] for crossing in fetched] == [(ROOT, b"f", st.st_ino, 1, [])]
    assert _native.plane_fetch(ROOT, b"f") == []  # it crosses once
    # Python does not find it again: it is dead for as long as the kernel knows it.
    assert not _native.plane_crossed(st.st_ino)
    assert wire.ask(GETATTR, st.st_ino, bytes(16)) == (errno.ESTALE, b"")
    assert _native.plane_claim(st.st_ino) == 0
    assert wire.ask(FORGET, st.st_ino, struct.pack("=Q", 1)) is None
    assert _native.plane_claim(st.st_ino) > 1


@sandboxed
def test_a_directory_of_pythons_is_kept_while_nodes_are_in_it() -> None:
    write("d/f")
    wire = Wire()
    os.makedirs("layer", exist_ok=True)
    st = os.stat("layer/d")
    assert _native.plane_claim(st.st_ino)
    directory = os.open("layer/d", os.O_PATH)
    assert _native.plane_grant(st.st_ino, ROOT, directory, 0, True, True)
    nodeid = wire.look_up(st.st_ino, b"f")
    assert nodeid
    forget = _HEADER.pack(48, FORGET, 2, st.st_ino, 0, 0, 0, 0, 0) + struct.pack("=Q", 3)
    passed = wire.send(forget)
    assert passed is not None
    assert struct.unpack_from("=Q", passed, _HEADER.size) == (2,)
    assert _native.plane_forgotten() == b""
    assert wire.ask(FORGET, nodeid, struct.pack("=Q", 1)) is None
    assert _native.plane_forgotten() == struct.pack("=Qq", st.st_ino, 0)
    _native.plane_drop(st.st_ino)
    assert _native.plane_held() == (0, 0, 0, 0)


@sandboxed
def test_a_listing_has_each_name_once_whatever_the_room() -> None:
    names = [f"{'n' * (number % 50)}{number}" for number in range(400)]
    for name in names:
        write(name)
    os.mkdir("layer/directory")
    os.symlink("target", "layer/symlink")
    wire = Wire()
    grant()
    for room in (400, 4096, 1 << 17):
        seen = wire.list_all(ROOT, room)
        assert seen.keys() == {
            os.fsencode(name) for name in (".", "..", "directory", "symlink", *names)
        }
        for found_name, (nodeid, inode, _) in seen.items():
            st = os.stat(b"layer/" + found_name, follow_symlinks=False)
            assert inode in (ROOT, st.st_ino)
            assert nodeid in (0, st.st_ino)
    # A reader that goes back, and one that is not at the place where the last one ended.
    first = wire.list(ROOT, 0, 4096)
    again = wire.list(ROOT, 0, 4096)
    assert [*first] == [*again]
    offset = sorted(position for _, _, position in first.values())[5]
    assert next(iter(wire.list(ROOT, offset, 4096))) == [*first][6]


@sandboxed
def test_lookups_of_a_listing_are_counted() -> None:
    for number in range(20):
        write(f"{number}")
    wire = Wire()
    grant()
    found = wire.list(ROOT)
    nodeids = [nodeid for nodeid, _, _ in found.values() if nodeid]
    assert len(nodeids) == 20
    assert _native.plane_held()[:2] == (20, 20)
    body = struct.pack("=II", 20, 0) + b"".join(struct.pack("=QQ", one, 1) for one in nodeids)
    assert wire.ask(BATCH_FORGET, 0, body) is None
    assert _native.plane_held()[:2] == (0, 0)


@sandboxed
def test_a_listing_of_names_only_has_the_same_positions_and_makes_no_nodes() -> None:
    for number in range(300):
        write(f"file-{number}")
        write(f"{number}/f")
    os.mknod("layer/gone", stat.S_IFCHR, 0)
    wire = Wire()
    grant()
    for room in (400, 4096, 1 << 17):
        before = _native.plane_held()
        plain = wire.list_all(ROOT, room, READDIR)
        assert _native.plane_held() == before
        full = wire.list_all(ROOT, room)
        assert [*plain] == [*full]
        assert len(plain) == 602
        assert [one[1:] for one in plain.values()] == [one[1:] for one in full.values()]
        positions = [position for _, _, position in plain.values()]
        for at in range(0, 600, 50):
            for opcode in (READDIRPLUS, READDIR):
                found = wire.list(ROOT, positions[at], room, opcode)
                assert [*found] == [*plain][at + 1 : at + 1 + len(found)]
    assert {name: inode for name, (_, inode, _) in plain.items() if name[:1] != b"."} == {
        os.fsencode(name): os.lstat(f"layer/{name}").st_ino
        for name in os.listdir("layer")
        if name != "gone"
    }


@sandboxed
def test_after_a_few_missing_names_those_of_a_directory_are_read_once_if_they_may_be_kept() -> None:
    for name in ("small", "live", "wide", "odd"):
        write(f"{name}/f")
    for number in range(300):
        write(f"wide/{number}")
    os.mkfifo("layer/odd/fifo")
    wire = Wire()
    grant()

    def miss(name: str, times: int) -> int:
        directory = wire.look_up(ROOT, os.fsencode(name))
        assert directory
        for number in range(times):
            assert wire.look_up(directory, b"missing%d" % number) == 0
        write(f"{name}/later")
        return directory

    assert wire.look_up(miss("live", 9), b"later")
    start(keeps_names=True)
    assert wire.look_up(miss("wide", 9), b"later")
    assert wire.look_up(miss("odd", 9), b"later")
    small = miss("small", 3)
    assert wire.look_up(small, b"later")
    assert wire.look_up(small, b"missing") == 0
    write("small/unseen")
    assert wire.look_up(small, b"unseen") == 0
    for found in ("f", "later"):
        inode = os.lstat(f"layer/small/{found}").st_ino
        assert wire.look_up(small, os.fsencode(found)) == inode
    assert wire.list(small).keys() == {b".", b"..", b"f", b"later", b"unseen"}
    # Once the directory is Python's, so are its names.
    adopt(_native.plane_fetch(small, b""))
    assert wire.look_up(small, b"unseen") is None


@sandboxed
def test_whiteouts_are_not_listed() -> None:
    write("f")
    write(".wh.f")
    os.mknod("layer/gone", 0o20000, 0)
    wire = Wire()
    grant()
    assert wire.list(ROOT).keys() == {b".", b"..", b"f"}
    assert wire.look_up(ROOT, b"gone") is None


@sandboxed
def test_a_revoked_directory_is_pythons_and_its_reader_is_told() -> None:
    write("f")
    wire = Wire()
    grant()
    assert not _native.plane_revoke(ROOT, False, b"")
    grant()
    wire.list(ROOT, 0, 400)
    assert _native.plane_revoke(ROOT, False, b"")
    assert not _native.plane_is_granted(ROOT)
    assert wire.look_up(ROOT, b"f") is None


@sandboxed
def test_a_file_that_was_replaced_below_is_another_node() -> None:
    write("f", "before")
    wire = Wire()
    grant()
    before = wire.look_up(ROOT, b"f")
    assert before
    handle = handle_of(wire.ask(OPEN, before, struct.pack("=II", 0, 0)))
    write("g", "after")
    os.rename("layer/g", "layer/f")
    after = wire.look_up(ROOT, b"f")
    assert after not in (None, 0, before)
    assert read(wire, before, handle) == (0, b"before")
    reply = wire.ask(GETATTR, before, bytes(16))
    assert reply is not None
    assert reply[0] == 0
    assert wire.ask(OPEN, before, struct.pack("=II", 0, 0)) == (errno.ESTALE, b"")


@sandboxed_on_disk
def test_attributes_of_files_are_read_and_markers_are_pythons() -> None:
    write("f")
    os.setxattr("layer/f", "user.mine", b"value")
    wire = Wire()
    grant()
    nodeid = wire.look_up(ROOT, b"f")
    assert nodeid
    size = struct.pack("=II", 100, 0)
    assert wire.ask(GETXATTR, nodeid, size + b"user.mine\0") == (0, b"value")
    assert wire.ask(GETXATTR, nodeid, size + b"user.none\0") == (errno.ENODATA, b"")
    assert wire.ask(GETXATTR, nodeid, struct.pack("=II", 1, 0) + b"user.mine\0") == (
        errno.ERANGE,
        b"",
    )
    reply = wire.ask(GETXATTR, nodeid, struct.pack("=II", 0, 0) + b"user.mine\0")
    assert reply == (0, struct.pack("=II", 5, 0))
    assert wire.ask(LISTXATTR, nodeid, size) == (0, b"user.mine\0")
    assert wire.ask(GETXATTR, nodeid, size + b"user.overlay.opaque\0") is None
    assert wire.ask(FLUSH, nodeid, bytes(24)) is None


DONE: Final = (0, b"")


@sandboxed
def test_files_are_made_written_and_removed_in_the_upper() -> None:
    wire = Wire()
    grant_changes()
    made = create(wire, ROOT, b"f", 0o666)
    assert made is not None
    nodeid, handle = made
    st = os.stat("layer/f")
    assert (nodeid, st.st_mode) == (st.st_ino, 0o100644)
    assert write_to(wire, nodeid, handle, b"content") == (0, struct.pack("=II", 7, 0))
    assert read(wire, nodeid, handle) == (0, b"content")
    assert _native.plane_changed(ROOT) == (True, True)
    assert _native.plane_changed(ROOT) == (True, False)
    # What has no name any more is as it was for those who have it open.
    assert wire.ask(UNLINK, ROOT, b"f\0") == DONE
    assert os.listdir("layer") == []
    assert wire.look_up(ROOT, b"f") == 0
    assert write_to(wire, nodeid, handle, b"more", 7) == (0, struct.pack("=II", 4, 0))
    assert read(wire, nodeid, handle) == (0, b"contentmore")
    reply = wire.ask(GETATTR, nodeid, bytes(16))
    assert reply is not None
    fields = _ATTR.unpack_from(reply[1], 16)
    assert (fields[0], fields[1], fields[10]) == (nodeid, 11, 0)
    assert wire.ask(RELEASE, nodeid, struct.pack("=QIIQ", handle, 0, 0, 0)) == DONE
    assert wire.ask(FORGET, nodeid, struct.pack("=Q", 1)) is None
    assert _native.plane_held()[:3] == (0, 0, 0)


@sandboxed
def test_only_what_was_made_here_is_changed_here() -> None:
    write("before", "content")
    write("lowers")
    os.symlink("elsewhere", "layer/link")
    wire = Wire()
    grant_changes("hidden", "lowers")
    for name in (b"before", b"lowers", b"link", b"hidden", b".wh.x"):
        assert wire.look_up(ROOT, name) is None
        assert create(wire, ROOT, name) is None
        assert mkdir(wire, ROOT, name) is None
        assert wire.ask(SYMLINK, ROOT, name + b"\0target\0") is None
        for opcode in (UNLINK, RMDIR):
            assert wire.ask(opcode, ROOT, name + b"\0") is None
    assert create(wire, ROOT, b"mine") is not None
    for name in (b"before", b"lowers", b"link", b"hidden"):
        assert rename(wire, ROOT, b"mine", ROOT, name) is None
        assert rename(wire, ROOT, name, ROOT, b"new") is None
        wire.look_up(ROOT, b"mine")
    assert sorted(os.listdir("layer")) == ["before", "link", "lowers", "mine"]
    with open("layer/before") as file:
        assert file.read() == "content"


@sandboxed
def test_a_file_of_another_user_is_pythons_to_make() -> None:
    wire = Wire()
    grant_changes()
    body = struct.pack("=IIII", os.O_RDWR, 0o100644, 0o22, 0) + b"f\0"
    for uid, gid in ((os.geteuid() + 1, os.getegid()), (os.geteuid(), os.getegid() + 1)):
        raw = _HEADER.pack(_HEADER.size + len(body), CREATE, 2, ROOT, uid, gid, 0, 0, 0) + body
        assert wire.send(raw) is not None
    assert os.listdir("layer") == []


@sandboxed
def test_directories_made_here_take_changes_and_renames() -> None:
    wire = Wire()
    grant_changes("lowers")
    one, other = mkdir(wire, ROOT, b"one"), mkdir(wire, ROOT, b"other")
    assert one
    assert other
    assert create(wire, one, b"lowers") is not None  # no lower has that name in there
    made = create(wire, one, b"f")
    assert made is not None
    assert rename(wire, one, b"f", other, b"g") == DONE
    assert os.listdir("layer/other") == ["g"]
    assert wire.look_up(other, b"g") == made[0]
    assert wire.look_up(one, b"f") == 0
    assert rename(wire, one, b"lowers", other, b"g", 1) is None  # RENAME_NOREPLACE
    adopt(_native.plane_crossings())
    assert wire.ask(RMDIR, ROOT, b"one\0") is None  # not empty: Python's to say


@sandboxed
def test_a_renamed_directory_keeps_its_content() -> None:
    wire = Wire()
    grant_changes()
    one = mkdir(wire, ROOT, b"one")
    assert one
    below = mkdir(wire, one, b"below")
    assert below
    made = create(wire, below, b"f")
    assert made is not None
    assert rename(wire, one, b"below", ROOT, b"moved") == DONE
    assert wire.look_up(ROOT, b"moved") == below
    assert wire.look_up(below, b"f") == made[0]
    assert wire.ask(RMDIR, ROOT, b"one\0") == DONE
    assert wire.ask(UNLINK, below, b"f\0") == DONE
    assert wire.ask(RMDIR, ROOT, b"moved\0") == DONE
    assert os.listdir("layer") == []
    reply = wire.ask(GETATTR, below, bytes(16))
    assert reply is not None
    assert _ATTR.unpack_from(reply[1], 16)[10] == 0


@sandboxed
def test_a_rename_over_an_open_file_leaves_it_readable() -> None:
    wire = Wire()
    grant_changes()
    old, new = create(wire, ROOT, b"old"), create(wire, ROOT, b"new")
    assert old is not None
    assert new is not None
    write_to(wire, *old, b"old content")
    write_to(wire, *new, b"new")
    assert rename(wire, ROOT, b"new", ROOT, b"old") == DONE
    assert read(wire, *old) == (0, b"old content")
    assert wire.look_up(ROOT, b"old") == new[0]
    with open("layer/old") as file:
        assert file.read() == "new"


@sandboxed
def test_a_nameless_file_crosses_with_its_descriptor() -> None:
    wire = Wire()
    grant_changes()
    made = create(wire, ROOT, b"f")
    assert made is not None
    nodeid, handle = made
    write_to(wire, nodeid, handle, b"content")
    assert wire.ask(UNLINK, ROOT, b"f\0") == DONE
    assert wire.ask(LINK, ROOT, struct.pack("=Q", nodeid) + b"g\0") is None
    ((_, name, crossed, lookups, handles, _, state, inode, _, _, _),) = _native.plane_crossings()
    assert (name, crossed, lookups, handles) == (b"", nodeid, 1, [(handle, True)])
    assert state[0] is not None  # the modification time before the write
    assert os.fstat(inode).st_size == 7
    os.close(inode)
    assert _native.plane_claim(nodeid) > 1
    assert _native.plane_crossed(nodeid)
    _native.plane_bind(handle, 9)
    assert write_to(wire, nodeid, handle, b"x") is None


@sandboxed
def test_the_attributes_of_what_was_made_are_changed() -> None:
    wire = Wire()
    grant_changes()
    made = create(wire, ROOT, b"f")
    assert made is not None
    nodeid, handle = made
    valid = 1 | 8 | 16 | 32 | 1 << 10  # mode, size, both times, change time
    values = (valid, 0, handle, 5, 0, 11, 22, 33, 111, 222, 333, 0o100600, 0, 0, 0, 0)
    reply = wire.ask(SETATTR, nodeid, struct.pack("=IIQQQQQQIIIIIIII", *values))
    assert reply is not None
    assert reply[0] == 0
    fields = _ATTR.unpack_from(reply[1], 16)
    assert (fields[1], *fields[3:9], fields[9]) == (5, 11, 22, 33, 111, 222, 333, 0o100600)
    st = os.stat("layer/f")
    assert (st.st_size, st.st_mode) == (5, 0o100600)
    assert (st.st_atime_ns, st.st_mtime_ns) == (11_000000111, 22_000000222)
    # The change time outlives the kernel's memory of the file.
    wire.ask(RELEASE, nodeid, struct.pack("=QIIQ", handle, 0, 0, 0))
    assert wire.ask(FORGET, nodeid, struct.pack("=Q", 1)) is None
    assert _native.plane_forgotten() == struct.pack("=Qq", nodeid, 33_000000333)
    assert _native.plane_forgotten() == b""


@sandboxed
def test_files_with_set_ids_are_pythons_to_write_to() -> None:
    wire = Wire()
    grant_changes()
    assert create(wire, ROOT, b"f", 0o4755) is None
    assert not os.path.exists("layer/f")
    for name, mode in ((b"plain", 0o100777), (b"user", 0o104700), (b"group", 0o102755)):
        made = create(wire, ROOT, name)
        assert made is not None
        values = (1, 0, made[1], 0, 0, 0, 0, 0, 0, 0, 0, mode, 0, 0, 0, 0)
        reply = wire.ask(SETATTR, made[0], struct.pack("=IIQQQQQQIIIIIIII", *values))
        assert (reply is None) == (name != b"plain")
        assert stat.S_IMODE(os.stat(b"layer/" + name).st_mode) == (0o777 if reply else 0o644)


@sandboxed
def test_a_write_puts_the_modification_time_back_at_the_end() -> None:
    wire = Wire()
    grant_changes()
    made = create(wire, ROOT, b"f")
    assert made is not None
    nodeid, handle = made
    values = (32, 0, handle, 0, 0, 0, 22, 0, 0, 222, 0, 0, 0, 0, 0, 0)
    times = struct.pack("=IIQQQQQQIIIIIIII", *values)
    assert wire.ask(SETATTR, nodeid, times) is not None
    write_to(wire, nodeid, handle, b"content")
    assert wire.ask(FSYNC, nodeid, struct.pack("=QII", handle, 0, 0)) is None
    assert os.stat("layer/f").st_mtime_ns != 0
    assert _native.plane_crossings() == []
    fd = _native.plane_descriptor(handle)
    assert os.pread(fd, 10, 0) == b"content"
    os.close(fd)


@sandboxed
def test_an_open_file_of_a_closed_directory_is_pythons_to_change() -> None:
    wire = Wire()
    grant_changes()
    made = create(wire, ROOT, b"f")
    assert made is not None
    nodeid, handle = made
    start(directories=0)
    assert write_to(wire, nodeid, handle, b"content") == (0, struct.pack("=II", 7, 0))
    assert _native.plane_held()[3] == 0  # the limit closes the directory
    assert not _native.plane_is_granted(ROOT)
    values = (1, 0, handle, 0, 0, 0, 0, 0, 0, 0, 0, 0o100600, 0, 0, 0, 0)
    assert wire.ask(SETATTR, nodeid, struct.pack("=IIQQQQQQIIIIIIII", *values)) is None
    assert [crossing[1] for crossing in _native.plane_crossings()] == [b"f"]


@sandboxed
def test_a_given_file_is_written_through_its_own_descriptor_only() -> None:
    """The lower's is refused. A handle that got none, for lack of descriptors, is Python's again."""
    write("f", "upper")
    wire = Wire()
    grant_changes()
    with open("lower/f", "w") as lower:
        lower.write("lower")
    nodeid = os.stat("lower/f").st_ino
    assert _native.plane_claim(nodeid) > 1
    handles = [_native.plane_open(nodeid, number, True) for number in (1, 2)]

    def give(descriptor: int, count: int = len(handles)) -> bool:
        state = (None, 0, 0, False)
        return _native.plane_give(nodeid, ROOT, b"f", 1, descriptor, count, 0, state)

    with open("lower/f", "r+b") as lowers:
        assert not give(lowers.fileno())
    descriptor = os.open("layer/f", os.O_RDWR)
    assert not give(descriptor, 1)  # Python would write through the other handle
    os.chmod("layer/f", 0o4755)  # Python keeps what a write takes away
    assert not give(descriptor)
    os.chmod("layer/f", 0o644)
    os.setxattr("layer/f", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
    assert not give(descriptor)
    os.removexattr("layer/f", "security.capability")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    assert give(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    without = [handle for handle in handles if is_without_descriptor(handle)]
    (own,) = {*handles} - {*without}
    assert len(without) == 1
    assert write_to(wire, nodeid, own, b"U") == (0, struct.pack("=II", 1, 0))
    assert wire.ask(FSYNC, nodeid, struct.pack("=QII", own, 0, 0)) is None
    assert _native.plane_crossings() == []
    assert wire.ask(FSYNC, nodeid, struct.pack("=QII", without[0], 0, 0)) is None
    ((above, name, crossed, lookups, opened, *_),) = _native.plane_crossings()
    assert (above, name, crossed, lookups) == (ROOT, b"f", nodeid, 1)
    assert {handle for handle, _ in opened} == {*handles}
    contents = []
    for path in ("layer/f", "lower/f"):
        with open(path) as file:
            contents.append(file.read())
    assert contents == ["Upper", "lower"]


@sandboxed
def test_a_copy_takes_the_place_of_the_planes_file() -> None:
    """Its node stays the plane's. One of which nothing is copied crosses as one that Python has to look for."""
    for name in "fgh":
        write(f"{name}", "lower")
    os.mkdir("upper")
    wire = Wire()
    lower, upper = (os.open(name, os.O_PATH) for name in ("layer", "upper"))
    names = [(name, 0, stat.S_IFREG >> 12, 0) for name in (b"f", b"g", b"h")]
    assert _native.plane_resolve(ROOT, ROOT, upper, [lower], [(0, True)], True, names)
    nodeids = {name: wire.look_up(ROOT, name.encode()) for name in "fgh"}
    assert all(nodeids.values())

    def begin_open(name: str, flags: int) -> None:
        body = struct.pack("=II", flags, 0)
        header = (_HEADER.size + len(body), OPEN, 2, nodeids[name], 0, 0, 7, 0, 0)
        wire.ours.send(_HEADER.pack(*header) + body)
        assert not _native.plane_wait(wire.device.fileno(), -1, 0, False)

    def receive() -> None:
        wire.library.plane_receive(ctypes.byref(wire.buffer), ctypes.byref(ctypes.c_int(0)))

    begin_open("f", os.O_WRONLY)
    assert _native.plane_to_change() is None  # no names of the directory are to be changed here yet
    receive()
    assert adopt(_native.plane_crossings()) == [(ROOT, b"f", 1)]
    assert _native.plane_grant_changes(ROOT, upper, 0, [lower])

    begin_open("g", os.O_RDWR)
    assert _native.plane_to_change() == (OPEN, nodeids["g"], ROOT, b"g", 0, os.O_RDWR, 7, 0, b"")
    assert _native.plane_fetch(ROOT, b"missing") == []
    with open("upper/g", "x+b") as copy:
        copy.write(b"upper")
    descriptor = os.open("upper/g", os.O_RDWR)
    assert not _native.plane_take_copy(descriptor, 5)  # its name has not been taken back
    _native.plane_revoke(ROOT, True, b"g")
    assert _native.plane_take_copy(descriptor, 5)
    assert _native.plane_to_change() is None
    assert _native.plane_crossings() == []
    handle = handle_of((0, wire.ours.recv(1 << 12)[_OUT.size :]))
    assert read(wire, nodeids["g"] or 0, handle) == (0, b"upper")
    assert write_to(wire, nodeids["g"] or 0, handle, b"U") == (0, struct.pack("=II", 1, 0))
    assert wire.look_up(ROOT, b"g") == nodeids["g"]

    begin_open("h", os.O_RDONLY | os.O_TRUNC)
    assert _native.plane_to_change() is not None
    _native.plane_revoke(ROOT, True, b"h")
    ((*_, is_made, place, _),) = _native.plane_crossings()
    assert (is_made, place) == (False, _native.PLACE_OF_PYTHON)
    receive()
    with open("layer/g") as file:
        assert file.read() == "lower"


@sandboxed
def test_a_removed_file_of_a_lower_stays_the_planes() -> None:
    """Until a request changes it: then it crosses with its place in the lower. Its descriptor is closed at the end."""
    for name in "fgh":
        write(f"{name}", "lower")
    os.mkdir("upper")
    wire = Wire()
    lower, upper = (os.open(name, os.O_PATH) for name in ("layer", "upper"))
    names = [(name, 0, stat.S_IFREG >> 12, 0) for name in (b"f", b"g", b"h")]
    assert _native.plane_resolve(ROOT, ROOT, upper, [lower], [(0, True)], True, names)
    assert _native.plane_grant_changes(ROOT, upper, 0, [lower])
    nodeids = {name: wire.look_up(ROOT, name.encode()) or 0 for name in "fgh"}
    descriptors = len(os.listdir("/proc/self/fd"))

    def begin_removal(name: str) -> None:
        body = name.encode() + b"\0"
        wire.ours.send(_HEADER.pack(40 + len(body), UNLINK, 2, ROOT, 0, 0, 7, 0, 0) + body)
        assert not _native.plane_wait(wire.device.fileno(), -1, 0, False)
        wanted = (UNLINK, nodeids[name], ROOT, name.encode(), 0, 0, 7, 0, b"")
        assert _native.plane_to_change() == wanted

    def ask(opcode: int, name: str, *values: int) -> tuple[int, bytes] | None:
        body = struct.pack("=IIQQQQQQIIIIIIIII", *values, *(0,) * (17 - len(values)))
        return wire.ask(opcode, nodeids[name], body if opcode == SETATTR else bytes(16))

    for name in "fg":
        begin_removal(name)
        _native.plane_revoke(ROOT, True, name.encode())
        assert _native.plane_take_removal(b"1/" + name.encode())
        assert _OUT.unpack(wire.ours.recv(1 << 12))[1] == 0
        assert not _native.plane_take_removal(b"1/f")  # nothing is pending
        assert wire.look_up(ROOT, name.encode()) == 0
        for reply in (ask(SETATTR, name, 1 << 5 | 1 << 10), ask(GETATTR, name)):
            assert reply is not None
            assert reply[0] == 0
            assert _ATTR.unpack_from(reply[1], 16)[10] == 0  # nlink
    assert ask(SETATTR, "g", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o600) is None
    ((above, name_or_place, nodeid, *_, inode, is_made, place, _),) = _native.plane_crossings()
    assert (above, name_or_place, nodeid, inode) == (0, b"1/g", nodeids["g"], -1)
    assert (is_made, place) == (False, _native.PLACE_OF_PYTHON)
    assert _native.plane_claim(nodeids["g"])
    _native.plane_drop(nodeids["g"])
    assert wire.ask(FORGET, nodeids["f"], struct.pack("=Q", 1)) is None
    assert len(os.listdir("/proc/self/fd")) == descriptors

    begin_removal("h")
    assert not _native.plane_take_removal(b"")
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert [crossing[1] for crossing in _native.plane_fetch(ROOT, b"h")] == [b"h"]


@sandboxed
def test_a_renamed_file_of_a_lower_stays_the_planes() -> None:
    """Its copy is made under the earlier name. One whose new name the plane has a node of is Python's to rename."""
    for path in "fgh":
        write(path, "lower")
    os.mkdir("upper")
    wire = Wire()
    lower, upper = (os.open(path, os.O_PATH) for path in ("layer", "upper"))
    names = [(name, 0, stat.S_IFREG >> 12, 0) for name in (b"f", b"g", b"h")]
    assert _native.plane_resolve(ROOT, ROOT, upper, [lower], [(0, True)], True, names)
    assert _native.plane_grant_changes(ROOT, upper, 0, [lower])

    def begin_rename(name: bytes, new_name: bytes, flags: int | None) -> int:
        body = struct.pack("=Q", ROOT) if flags is None else struct.pack("=QII", ROOT, flags, 0)
        body += name + b"\0" + new_name + b"\0"
        opcode = RENAME if flags is None else RENAME2
        wire.ours.send(_HEADER.pack(40 + len(body), opcode, 2, ROOT, 0, 0, 7, 0, 0) + body)
        assert not _native.plane_wait(wire.device.fileno(), -1, 0, False)
        return opcode

    for name, new_name, flags in ((b"f", b"F", None), (b"g", b"G", _native.RENAME_NOREPLACE)):
        nodeid = wire.look_up(ROOT, name) or 0
        opcode = begin_rename(name, new_name, flags)
        assert _native.plane_to_change() == (opcode, nodeid, ROOT, name, 0, 1, 7, ROOT, new_name)
        for one in (name, new_name):
            _native.plane_revoke(ROOT, True, one)
        _native.plane_begin_rename(ROOT, name, ROOT, new_name, 0, 0)
        with open(b"upper/" + new_name, "x+b") as copy:
            copy.write(b"upper")
            copy.flush()
            assert _native.plane_take_copy(copy.fileno(), 5)
        assert _OUT.unpack(wire.ours.recv(1 << 12))[1] == 0
        assert _native.plane_renaming() == (ROOT, name, ROOT, new_name, 0, False)
        assert wire.look_up(ROOT, new_name) == nodeid
        assert wire.look_up(ROOT, name) == 0
        handle = handle_of(wire.ask(OPEN, nodeid, struct.pack("=II", os.O_RDWR, 0)))
        assert write_to(wire, nodeid, handle, b"U") == (0, struct.pack("=II", 1, 0))
        with open(b"upper/" + new_name, "rb") as file:
            assert file.read() == b"Upper"

    assert wire.look_up(ROOT, b"h")
    for new_name, flags in ((b"F", None), (b"new", _native.RENAME_EXCHANGE)):
        begin_rename(b"h", new_name, flags)
        assert _native.plane_to_change() is None
        wire.library.plane_receive(ctypes.byref(wire.buffer), ctypes.byref(ctypes.c_int(0)))


@sandboxed
def test_a_rename_that_was_noted_is_not_noted_again() -> None:
    """A daemon may be killed between the two: the file that was moved is not one that was replaced."""
    write("f", "lower")
    grant()
    wire = Wire()
    nodeid = wire.look_up(ROOT, b"f")
    assert nodeid
    _native.plane_begin_rename(ROOT, b"earlier", ROOT, b"f", 0, 0)
    _native.plane_renamed()
    assert wire.look_up(ROOT, b"f") == nodeid


def is_without_descriptor(handle: int) -> bool:
    try:
        os.close(_native.plane_descriptor(handle))
    except OSError:
        return True
    return False


def change(opcode: int, chance: random.Random) -> bytes:
    """The body of a request that changes names or files."""
    one, other = (chance.choice((b"f1\0", b"n1\0", b"n2\0", b"n3\0")) for _ in range(2))
    handle = chance.choice((OUR_HANDLE, FIRST_HANDLE))
    bodies = {
        MKDIR: struct.pack("=II", 0o755, 0o22) + one,
        CREATE: struct.pack("=IIII", os.O_RDWR, 0o100644, 0o22, 0) + one,
        SYMLINK: one + other,
        RENAME2: struct.pack("=QII", ROOT, chance.choice((0, 1, 2)), 0) + one + other,
        WRITE: struct.pack("=QQIIQII", handle, 0, chance.choice((3, 4, 1000)), 0, 0, 0, 0) + b"xyz",
    }
    return bodies.get(opcode, one)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.one_in(5)
def test_malformed_requests_read_nothing_beyond_their_end(seed: int, changes: bool) -> None:
    """For the sanitizers: each request is random, or a good one with random changes."""
    often: tuple[int, ...] = (LOOKUP, READDIR, READDIRPLUS, OPEN, READ, RELEASE, RENAME2)
    if changes:
        often = (*often, CREATE, MKDIR, SYMLINK, UNLINK, RMDIR, WRITE, SETATTR)

    @sandboxed
    def fuzz() -> None:
        chance = random.Random(seed)
        for number in range(20):
            write(f"d{number % 3}/f{number}", "x")
        wire = Wire()
        if changes:
            grant_changes("f1")
        else:
            grant()
        nodeids = [ROOT]
        for _ in range(4000):
            opcode = chance.choice((*range(54), *often))
            body = bytearray(chance.randbytes(chance.choice((0, 1, 7, 8, 16, 40, 200))))
            if changes and chance.random() < 0.6:
                body[:] = change(opcode, chance)
            elif opcode == LOOKUP and chance.random() < 0.8:
                body[:] = chance.choice((b"d0\0", b"d1\0", b"f1\0", b"f4\0", b"f4", b"..\0", b"."))
            elif chance.random() < 0.7:
                body[:8] = struct.pack(
                    "=Q", chance.choice((0, 1, OUR_HANDLE, FIRST_HANDLE, 1 << 63))
                )
            nodeid = chance.choice((*nodeids, chance.getrandbits(64)))
            raw = _HEADER.pack(40 + len(body), opcode, 2, nodeid, 0, 0, 0, 0, 0) + bytes(body)
            wire.send(raw[: chance.choice((len(raw), len(raw), 40, 41))])
            for _, _, crossing, _, handles, *_, inode, _, _, _ in _native.plane_crossings():
                if inode >= 0:
                    os.close(inode)
                if chance.random() < 0.5:
                    _native.plane_claim(crossing)
                if _native.plane_crossed(crossing):
                    for handle, _ in handles:
                        _native.plane_bind(handle, chance.choice((0, 5)))
            try:
                reply = wire.ours.recv(1 << 21)
            except BlockingIOError:
                continue
            assert _OUT.unpack_from(reply)[0] == len(reply)
            if opcode in (LOOKUP, CREATE, MKDIR, SYMLINK) and len(reply) > _OUT.size:
                nodeids.append(_ENTRY.unpack_from(reply, _OUT.size)[0])

    fuzz("user")


def resolve(
    names: dict[str, int], *, upper: str | None = None, lists: bool = True, kind: int = stat.S_IFREG
) -> bool:
    """Hand over names of the root with their places: in the directories `layer` and `lower`, or Python's.

    `upper`: one of the two, which is no lower then.
    """
    lowers = [directory for directory in ("layer", "lower") if directory != upper]
    for directory in ("layer", "lower"):
        os.makedirs(directory, exist_ok=True)
    descriptors = [os.open(directory, os.O_PATH) for directory in lowers]
    above = -1 if upper is None else os.open(upper, os.O_PATH)
    given = []
    for name, place in names.items():
        known = place != _native.PLACE_OF_PYTHON
        st = os.lstat(f"{lowers[place]}/{name}") if known else None
        number = (
            77
            if st is None
            else st.st_ino
            if stat.S_ISREG(st.st_mode)
            else 0  # of directories only a lookup tells
        )
        type_ = stat.S_IFMT(kind if st is None else st.st_mode) >> 12
        given.append((os.fsencode(name), place, type_, number))
    done = _native.plane_resolve(
        ROOT, ROOT, above, descriptors, [(0, True)] * len(lowers), lists, given
    )
    for descriptor in (*descriptors, above):
        if descriptor >= 0:
            os.close(descriptor)
    return done


@sandboxed
def test_names_of_a_resolved_directory_are_found_where_python_says() -> None:
    write("both", "top")
    write("hidden")
    write("d/f", "content")
    os.mkdir("lower")
    for name in ("both", "below", "hidden", "new"):
        with open(f"lower/{name}", "w") as file:
            file.write("bottom")
    wire = Wire()
    names = {"both": 0, "below": 1, "d": 0, "pythons": _native.PLACE_OF_PYTHON}
    assert resolve(names)
    assert wire.look_up(ROOT, b"both") == os.stat("layer/both").st_ino
    below = wire.look_up(ROOT, b"below")
    assert below == os.stat("lower/below").st_ino
    handle = handle_of(wire.ask(OPEN, below, struct.pack("=II", 0, 0)))
    assert read(wire, below, handle) == (0, b"bottom")
    directory = wire.look_up(ROOT, b"d")
    assert directory
    assert wire.look_up(directory, b"f") == os.stat("layer/d/f").st_ino
    # Of what Python hides it is not asked again, nor the disk; a marker's name is Python's.
    assert wire.look_up(ROOT, b"hidden") == 0
    assert wire.look_up(ROOT, b"new") == 0
    assert wire.look_up(ROOT, b"n" * 256) is None  # ENAMETOOLONG
    assert wire.look_up(ROOT, b"pythons") is None
    assert wire.look_up(ROOT, b".wh.below") is None
    reply_of = wire.ask(GETATTR, ROOT, bytes(16))
    assert reply_of is not None
    assert _ATTR.unpack_from(reply_of[1], 16)[10] == 1  # as every merged directory
    # Nodes stay in reach after a grant, and a name that has gone from the lower is Python's.
    os.unlink("lower/new")
    assert not _native.plane_revoke(ROOT, True, b"")
    assert wire.look_up(ROOT, b"below") is None
    assert read(wire, below, handle) == (0, b"bottom")
    assert wire.ask(GETATTR, below, bytes(16)) is not None
    assert resolve({"both": 0, "below": 1})
    os.unlink("lower/below")
    assert wire.look_up(ROOT, b"below") is None


@sandboxed
def test_a_resolved_directory_is_listed_in_the_order_of_its_names() -> None:
    for number in range(400):
        write(f"f{number}")
    write("d/f")
    wire = Wire()
    names = {f"f{number}": 0 for number in range(400)}
    pythons = {"pythons": _native.PLACE_OF_PYTHON, "d": 0}
    assert resolve(names | pythons)
    for room in (400, 4096, 1 << 17):
        seen = wire.list_all(ROOT, room)
        assert [*seen] == [b".", b"..", *map(os.fsencode, names | pythons)]
        assert [position for _, _, position in seen.values()] == [*range(1, len(seen) + 1)]
        assert seen[b"pythons"][:2] == (0, 77)
        for name in (*names, "d"):
            nodeid, inode, _ = seen[os.fsencode(name)]
            assert inode == os.stat(f"layer/{name}").st_ino
            assert nodeid in (0, inode)
        assert seen[b"d"][0] != 0
    wire.list(ROOT, 0, 4096)
    assert _native.plane_revoke(ROOT, True, b"")
    body = struct.pack("=QQIIQII", 0, 20, 4096, 0, 0, 0, 0)
    assert wire.ask(READDIRPLUS, ROOT, body) is None
    assert resolve(names, lists=False)
    assert wire.ask(READDIRPLUS, ROOT, bytes(40)) is None


@sandboxed
def test_names_made_in_a_resolved_directory_are_found_and_missed() -> None:
    os.mkdir("lower")
    with open("lower/below", "w"):
        pass
    wire = Wire()
    grant_changes()
    assert resolve({"below": 0, "pythons": _native.PLACE_OF_PYTHON}, upper="layer")
    assert wire.look_up(ROOT, b"new") == 0
    made = create(wire, ROOT, b"new")
    assert made is not None
    nodeid, handle = made
    assert wire.look_up(ROOT, b"new") == nodeid
    assert wire.look_up(ROOT, b"below") == os.stat("lower/below").st_ino
    assert create(wire, ROOT, b"below") is None
    assert rename(wire, ROOT, b"new", ROOT, b"moved") == (0, b"")
    assert wire.look_up(ROOT, b"new") == 0
    assert wire.look_up(ROOT, b"moved") == nodeid
    assert wire.ask(RELEASE, nodeid, struct.pack("=QIIQ", handle, 0, 0, 0)) == (0, b"")
    # The upper has it still, but whose it is Python has to say.
    assert wire.ask(FORGET, nodeid, struct.pack("=Q", 3)) is None
    assert _native.plane_held()[0] == 1
    assert wire.look_up(ROOT, b"moved") is None
    assert mkdir(wire, ROOT, b"moved") is None
    other = create(wire, ROOT, b"other")
    assert other is not None
    assert wire.ask(UNLINK, ROOT, b"other\0") == (0, b"")
    assert wire.look_up(ROOT, b"other") == 0
    assert wire.look_up(ROOT, b"pythons") is None
    assert _native.plane_is_granted(ROOT) == 2
    assert not _native.plane_revoke(ROOT, True, b"")
    assert _native.plane_is_granted(ROOT) == 2
    assert wire.look_up(ROOT, b"other") == 0


@sandboxed
def test_a_revoked_directory_forgets_its_names() -> None:
    write("f")
    wire = Wire()
    assert resolve({"f": 0})
    assert wire.look_up(ROOT, b"missing") == 0
    assert not _native.plane_revoke(ROOT, False, b"")
    assert wire.look_up(ROOT, b"missing") is None
    grant_changes()
    write("missing")
    assert wire.look_up(ROOT, b"missing") is None


@sandboxed
def test_names_that_a_file_system_finds_in_other_letters_are_not_kept() -> None:
    write("name")
    write("Name")  # as if the file system found "name" so
    wire = Wire()
    assert not resolve({"name": 0})
    assert wire.look_up(ROOT, b"Name") is None
    assert resolve({"name": 0, "Name": 0})


@sandboxed
def test_a_request_is_answered_after_the_grant_that_it_asks_for() -> None:
    write("f")
    wire = Wire()

    def hold(opcode: int, body: bytes) -> None:
        """Send a request that is not passed to Python yet."""
        raw = _HEADER.pack(_HEADER.size + len(body), opcode, 2, ROOT, 0, 0, 0, 0, 0) + body
        wire.ours.send(raw)
        assert not _native.plane_wait(wire.device.fileno(), -1, 0, False)

    listing = struct.pack("=QQIIQII", 0, 0, 4096, 0, 0, 0, 0)
    for times, (opcode, body) in enumerate(
        ((LOOKUP, b"f\0"), (READDIRPLUS, listing), (READDIR, listing)), start=1
    ):
        hold(opcode, body)
        assert _native.plane_wanted() == (
            *(ROOT, times, opcode != LOOKUP, False, 0),
            b"f" * (opcode == LOOKUP),
        )
        assert not _native.plane_retry()
        assert resolve({"f": 0})
        assert _native.plane_retry()
        assert _OUT.unpack_from(wire.ours.recv(1 << 16))[1:] == (0, 2)
        assert not _native.plane_retry()
        _native.plane_revoke(ROOT, True, b"")
    for opcode, body in (
        (READDIRPLUS, struct.pack("=QQIIQII", 0, 3, 4096, 0, 0, 0, 0)),  # Python has begun it
        (UNLINK, b"f\0"),
    ):
        hold(opcode, body)
        assert _native.plane_wanted() is None
        wire.library.plane_receive(ctypes.byref(wire.buffer), ctypes.byref(ctypes.c_int(0)))


@sandboxed
def test_a_directory_whose_names_one_lower_has_is_read_by_the_plane() -> None:
    for number in range(400):
        write(f"f{number}")
    write("d/f")
    os.symlink("f1", "layer/s")
    os.mkdir("lower")
    wire = Wire()

    def resolve_alone(most: int = 1000) -> bool:
        descriptors = [os.open(directory, os.O_PATH) for directory in ("lower", "layer")]
        arguments = ROOT, ROOT, -1, descriptors, [(0, True)] * 2, True, (1, True, most)
        done = _native.plane_resolve(*arguments)
        for descriptor in descriptors:
            os.close(descriptor)
        return done

    assert not resolve_alone(most=100)
    assert wire.look_up(ROOT, b"f1") is None
    assert resolve_alone()
    assert wire.look_up(ROOT, b"f1") == os.stat("layer/f1").st_ino
    assert wire.look_up(ROOT, b"missing") == 0
    found = wire.list(ROOT, 0, 1 << 17)
    assert [*found][2:] == [entry.name for entry in os.scandir(b"layer")]
    for name in [*found][2:]:
        assert found[name][1] == os.lstat(b"layer/" + name).st_ino
    directory = wire.look_up(ROOT, b"d")
    assert directory
    assert wire.look_up(directory, b"f") == os.stat("layer/d/f").st_ino
    for special in (lambda: write(".wh.f1"), lambda: os.mkfifo("layer/fifo")):
        _native.plane_revoke(ROOT, True, b"")
        special()
        assert not resolve_alone()
        assert wire.look_up(ROOT, b"f2") is None
        for made in (".wh.f1", "fifo"):
            if os.path.lexists(f"layer/{made}"):
                os.unlink(f"layer/{made}")
    assert resolve_alone()


@sandboxed
def test_init_is_agreed_on_before_libfuse_gets_it() -> None:
    dont_mask, writeback, acl, no_handles = 1 << 6, 1 << 16, 1 << 20, 1 << 38
    all_flags, auto, passthrough, extended = (1 << 64) - 1, 1 << 14, 1 << 37, 1 << 30
    for minor, flags, with_acl, passes, has, lacks in (
        (45, all_flags, False, False, dont_mask | writeback | no_handles | auto, acl | passthrough),
        (45, all_flags, True, True, acl | passthrough, writeback),
        (43, all_flags, False, False, writeback, auto),
        (45, all_flags & ~extended, False, True, writeback, passthrough | no_handles),
    ):
        wire = Wire()
        body = struct.pack("=IIIII", 7, minor, 1 << 17, flags & 0xFFFFFFFF, flags >> 32) + bytes(44)
        wire.ours.send(_HEADER.pack(40 + len(body), 26, 2, 0, 0, 0, 0, 0, 0) + body)
        agreed = _native.begin_session(wire.device.fileno(), with_acl, passes)
        reply = wire.ours.recv(1 << 12)
        size, error, unique = _OUT.unpack_from(reply)
        low, most, high = struct.unpack_from("=12xI4xI8xI", reply, _OUT.size)
        depth = struct.unpack_from("=I", reply, _OUT.size + 36)[0]
        assert (size, error, unique, most) == (80, 0, 2, 1 << 20)
        assert agreed == low | high << 32
        # ATOMIC_O_TRUNC and ASYNC_DIO lose data.
        assert (agreed & has, agreed & (lacks | 1 << 3 | 1 << 15)) == (has, 0)
        assert depth == bool(agreed & passthrough)
    wire.ours.send(_HEADER.pack(40, GETATTR, 4, 0, 0, 0, 0, 0, 0))
    with pytest.raises(OSError, match=os.strerror(errno.EPROTO)):
        _native.begin_session(wire.device.fileno(), False, False)


@sandboxed
def test_requests_of_a_killed_daemon_fail_where_the_kernel_does_not_send_them_again() -> None:
    wire = Wire()
    grant()
    assert wire.ask(LINK, ROOT, struct.pack("=Q", 7) + b"g\0") is None
    _native.plane_refuse(wire.device.fileno())
    assert _OUT.unpack(wire.ours.recv(1 << 12)) == (_OUT.size, -errno.EIO, wire.unique)


@sandboxed
def test_an_interrupt_does_not_hide_the_request_that_it_is_about() -> None:
    wire = Wire()
    grant()
    link = struct.pack("=Q", 7) + b"g\0"
    assert wire.ask(LINK, ROOT, link) is None
    unique = wire.unique
    raw = _HEADER.pack(48, INTERRUPT, unique | 1, 0, 0, 0, 0, 0, 0) + struct.pack("=Q", unique)
    assert wire.send(raw) is not None
    assert wire.send(_HEADER.pack(56, GETATTR, 100, 7, 0, 0, 0, 0, 0) + bytes(16)) is not None
    _native.plane_refuse(wire.device.fileno())
    answered = [_OUT.unpack(wire.ours.recv(1 << 12)) for _ in range(2)]
    assert [one for one in answered if one[2] == unique] == [(_OUT.size, -errno.EIO, unique)]


@sandboxed
def test_a_release_that_is_sent_again_closes_no_other_file() -> None:
    write("f", "content")
    wire = Wire()
    grant()
    nodeid = wire.look_up(ROOT, b"f")
    assert nodeid

    def opened() -> int:
        return handle_of(wire.ask(OPEN, nodeid, struct.pack("=II", os.O_RDONLY, 0)))

    released = opened()
    release = struct.pack("=QIIQ", released, 0, 0, 0)
    assert wire.ask(RELEASE, nodeid, release) == (0, b"")
    while (other := opened()) & 0xFFFFFFFF != released & 0xFFFFFFFF:
        assert wire.ask(RELEASE, nodeid, struct.pack("=QIIQ", other, 0, 0, 0)) == (0, b"")
    assert wire.ask(RELEASE, nodeid, release) == (0, b"")
    assert read(wire, nodeid, other) == (0, b"content")


LONG: Final = 1 << 20
"""Bytes: the longest WRITE."""


@sandboxed
def test_a_daemon_that_may_be_killed_has_the_memory_for_any_request() -> None:
    """The kernel gives a process that is being killed no page, and fails the request with EIO."""
    _native.plane_share()
    wire = Wire()
    wire.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LONG)
    for number in range(2):  # each of the two blocks that take turns
        request = _HEADER.pack(80 + LONG, WRITE, 2 + 2 * number, ROOT, 0, 0, 0, 0, 0)
        wire.ours.send(request + struct.pack("=QQIIQII", 0, 0, LONG, 0, 0, 0, 0) + bytes(LONG))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        _native.plane_wait(wire.device.fileno(), -1, 0, False)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100
        result = ctypes.c_int(0)
        assert wire.library.plane_receive(ctypes.byref(wire.buffer), ctypes.byref(result))
        assert result.value == 80 + LONG


@sandboxed
def test_only_the_request_read_last_is_blamed_for_a_kill() -> None:
    _native.plane_share()
    wire = Wire()
    grant()
    link = struct.pack("=Q", 7) + b"g\0"
    assert wire.ask(LINK, ROOT, link) is None
    patient = wire.unique
    assert wire.ask(LINK, ROOT, link) is None
    culprit = wire.unique

    def sent_again(unique: int) -> bool:
        """Whether Python gets the request; else it is refused."""
        length = _HEADER.size + len(link)
        raw = _HEADER.pack(length, LINK, unique | RESENT, ROOT, 0, 0, 0, 0, 0) + link
        if wire.send(raw) is not None:
            return True
        assert _OUT.unpack(wire.ours.recv(1 << 12)) == (_OUT.size, -errno.EIO, unique | RESENT)
        return False

    kills = 0
    while sent_again(patient) and sent_again(culprit):
        _native.plane_kept(False)
        kills += 1
    assert kills == 100
    assert sent_again(patient)
    assert not sent_again(culprit)
    for crashes in range(2):
        assert sent_again(patient) == (crashes < 2)
        _native.plane_kept(True)
    assert not sent_again(patient)


@sandboxed
def test_a_rename_is_noted_until_all_requests_have_been_sent_again() -> None:
    """The daemon that takes over may end, too, before it has read that of the rename."""
    wire = Wire()
    grant()
    _native.plane_begin_rename(ROOT, b"f", ROOT, b"g", 0, 0)
    _native.plane_end_rename()
    link = struct.pack("=Q", 7) + b"g\0"
    for unique, opcode, body in (
        (100 | RESENT, LINK, link),
        (102, FORGET, struct.pack("=Q", 1)),
        (101 | RESENT, INTERRUPT, struct.pack("=Q", 100)),
    ):
        wire.send(_HEADER.pack(40 + len(body), opcode, unique, ROOT, 0, 0, 0, 0, 0) + body)
        assert _native.plane_renaming() == (ROOT, b"f", ROOT, b"g", 0, False)
    assert wire.ask(LINK, ROOT, link) is None
    assert _native.plane_renaming() is None


@sandboxed
def test_no_node_is_lost_by_a_daemon_that_is_killed_while_it_takes_over() -> None:
    names = [b"f%d" % number for number in range(3000)]
    for name in names:
        write(name.decode())
    _native.plane_share()
    found, into = os.pipe()
    child = _native.fork_with_descriptors()
    if child == 0:
        wire = Wire()
        grant()
        for name in names:
            os.write(into, struct.pack("=Q", wire.look_up(ROOT, name) or 0))
        os._exit(0)
    os.waitpid(child, 0)
    nodeids = struct.unpack(f"={len(names)}Q", os.read(found, 8 * len(names)))
    assert 0 not in nodeids

    def take_over() -> int:
        child = _native.fork_with_descriptors()
        if child == 0:
            start()
            os.write(into, b"." if _native.plane_fetch(nodeids[-1], b"") else b"x")
            os._exit(0)
        return child

    began = time.monotonic()
    os.waitpid(take_over(), 0)
    whole = time.monotonic() - began
    for number in range(300):
        child = take_over()
        end = time.monotonic() + whole * number / 300
        while time.monotonic() < end:
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.close(into)
    assert set(os.read(found, 301)) == set(b".")
    start()
    for name, nodeid in zip(names, nodeids, strict=True):
        ((above, left, crossed, lookups, *_),) = _native.plane_fetch(nodeid, b"")
        assert (above, left, crossed, lookups) == (ROOT, name, nodeid, 1)


@sandboxed
def test_other_tasks_end_a_wait_for_requests_but_come_after_those_that_are_there() -> None:
    write("f")
    wire = Wire()
    grant()
    read, written = os.pipe()
    os.write(written, b"x")
    raw = _HEADER.pack(_HEADER.size + 2, LOOKUP, 2, ROOT, 0, 0, 0, 0, 0) + b"f\0"
    wire.ours.send(raw)
    assert _native.plane_wait(wire.device.fileno(), read, -1, True)
    assert _OUT.unpack_from(wire.ours.recv(1 << 10))[1:] == (0, 2)
    os.close(read)
    os.close(written)


@sandboxed_on_disk
def test_reads_of_what_is_not_in_memory_get_the_bytes_of_their_file() -> None:
    chance = random.Random(1)
    contents = ["".join(chance.choices("abcd", k=size)) for size in (10, 5000, 150_000)]
    wire = Wire()
    for number, content in enumerate(contents):
        write(f"f{number}", content)
    grant()
    handles = []
    for number in range(len(contents)):
        nodeid = wire.look_up(ROOT, b"f%d" % number)
        assert nodeid
        opened = wire.ask(OPEN, nodeid, struct.pack("=II", os.O_RDONLY, 0))
        assert opened is not None
        handles.append(struct.unpack_from("=Q", opened[1])[0])
    os.sync()
    for number in range(len(contents)):
        with open(f"layer/f{number}", "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    wanted = {}
    for unique in range(1000, 1040, 2):  # more than are awaited at once
        number = chance.randrange(len(contents))
        offset, size = chance.choice((0, chance.randrange(200_000))), chance.choice((100, 4096))
        wanted[unique] = contents[number][offset : offset + size].encode()
        body = struct.pack("=QQIIQII", handles[number], offset, size, 0, 0, 0, 0)
        length = _HEADER.size + len(body)
        wire.ours.send(_HEADER.pack(length, READ, unique, 0, 0, 0, 0, 0, 0) + body)
    _native.plane_wait(wire.device.fileno(), -1, 0, False)
    answered = {}
    for _ in wanted:
        raw = wire.ours.recv(1 << 16)
        _, error, unique = _OUT.unpack_from(raw)
        assert error == 0
        answered[unique] = raw[_OUT.size :]
    assert answered == wanted
