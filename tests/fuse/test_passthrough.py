"""Files that the kernel reads and writes in the layer itself (`fuse.passthrough`), as root."""

from __future__ import annotations

import mmap
import os
import stat
from collections import Counter

import pytest

from overlaykit.fuse.daemon import MountRefused
from overlaykit.fuse.spec import MountOptions

from ..overlay.inside import as_ordinary_user, as_root
from ..overlay.stack import Stack
from ..posix import syscalls
from ..posix.files import read_file, write_file
from ..posix.processes import BOB, run_as_user
from ..posix.table import File
from .mounted import Mounted, mounted

PASSTHROUGH = MountOptions(data="passthrough")
BULK = b"0123456789abcdef" * (1 << 16)


def transfers(requests: Counter[str]) -> int:
    """The requests that read or write data."""
    return requests["read"] + requests["write"]


def append(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, data)
    os.close(fd)


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@as_root
def test_no_request_reads_or_writes_what_is_in_the_upper(stack: Stack) -> None:
    stack.add({"f": File(b"old")})
    with mounted(stack, options=PASSTHROUGH) as mount:
        with mount.requests() as requests:
            write_file(mount.path("new"), BULK)
            write_file(mount.path("f"), BULK)
            for name in ("new", "f"):
                assert read_file(mount.path(name)) == BULK
                append(mount.path(name), b"end")
        assert transfers(requests) == 0
        assert all(os.stat(mount.path(name)).st_size == len(BULK) + 3 for name in ("new", "f"))
    assert read_file(os.path.join(stack.upper, "new")) == BULK + b"end"
    assert read_file(os.path.join(stack.lowers[0], "f")) == b"old"


@as_root
def test_in_a_mount_without_an_upper_all_files_are_read_so_and_none_is_written(
    stack: Stack,
) -> None:
    lower = stack.add({"f": File(BULK, mode=0o666)})
    os.utime(os.path.join(lower, "f"), ns=(1, 2))  # a read would set the first
    before = os.stat(os.path.join(lower, "f"))
    with mounted(stack, writable=False, options=PASSTHROUGH) as mount:
        with mount.requests() as requests:
            assert read_file(mount.path("f")) == BULK
        assert transfers(requests) == 0
        for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(OSError, match="Read-only file system"):
                os.open(mount.path("f"), flags)
    after = os.stat(os.path.join(lower, "f"))
    assert (after.st_atime_ns, after.st_ctime_ns) == (before.st_atime_ns, before.st_ctime_ns)
    assert read_file(os.path.join(lower, "f")) == BULK


@as_root
def test_readers_of_a_lowers_file_read_what_a_writer_writes_and_the_lower_stays(
    stack: Stack,
) -> None:
    lower = stack.add({"f": File(b"old " * 5000)})
    path = os.path.join(lower, "f")
    before = os.stat(path)
    with mounted(stack, options=PASSTHROUGH) as mount:
        reader = os.open(mount.path("f"), os.O_RDONLY)
        with mmap.mmap(reader, 0, prot=mmap.PROT_READ) as mapping:
            assert os.pread(reader, 4, 0) == mapping[:4] == b"old "
            writer = os.open(mount.path("f"), os.O_RDWR)
            os.pwrite(writer, b"new ", 0)
            assert os.pread(reader, 4, 0) == mapping[:4] == b"new "
            late = os.open(mount.path("f"), os.O_RDONLY)
            os.pwrite(writer, b"more", 4)
            assert os.pread(late, 8, 0) == mapping[:8] == b"new more"
        for fd in (reader, writer, late):
            os.close(fd)
        mount.await_held(open_files=0)
        append(mount.path("f"), b"end")  # by the kernel now
        os.chmod(mount.path("f"), 0o4755)  # by requests again
        assert read_file(mount.path("f"))[:12] == b"new moreold "
        assert read_file(mount.path("f"))[-3:] == b"end"
        append(mount.path("f"), b"s")
        os.chmod(mount.path("f"), 0o755)
        assert read_file(mount.path("f"))[-4:] == b"ends"
    after = os.stat(path)
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    assert read_file(path) == b"old " * 5000


@as_root
def test_a_write_takes_the_set_id_bits_away(stack: Stack) -> None:
    stack.add({name: File(b"x", mode=0o6777) for name in "ab"})
    with mounted(stack, options=PASSTHROUGH) as mount:
        a = os.open(mount.path("a"), os.O_WRONLY)
        run_as_user(BOB, lambda: os.write(a, b"y"))
        os.close(a)
        assert mode_of(mount.path("a")) == mode_of(os.path.join(stack.upper, "a")) == 0o777
        os.chmod(mount.path("b"), 0o777)
        b = os.open(mount.path("b"), os.O_WRONLY)
        os.chmod(mount.path("b"), 0o6777)  # the file is the kernel's already
        run_as_user(BOB, lambda: os.write(b, b"z"))
        os.close(b)
        assert mode_of(mount.path("b")) == mode_of(os.path.join(stack.upper, "b")) == 0o777


@as_root
def test_sizes_and_times_are_those_of_the_upper(stack: Stack) -> None:
    stack.add({"f": File(b"old content")})
    with mounted(stack, options=PASSTHROUGH) as mount:
        path, upper = mount.path("f"), os.path.join(stack.upper, "f")
        write_file(path, b"short")
        fd = os.open(path, os.O_RDWR)

        def same() -> bool:
            one, other = os.fstat(fd), os.stat(upper)
            return all(
                getattr(one, name) == getattr(other, name)
                for name in ("st_size", "st_mtime_ns", "st_ctime_ns", "st_blocks")
            )

        assert (same(), read_file(path)) == (True, b"short")
        os.pwrite(fd, b"longer", 5)
        assert (same(), os.fstat(fd).st_size) == (True, 11)
        os.ftruncate(fd, 3)
        assert (same(), read_file(path)) == (True, b"sho")
        os.utime(path, ns=(1_000_000_001, 2_000_000_002))
        os.close(fd)
        assert os.stat(path).st_mtime_ns == os.stat(upper).st_mtime_ns == 2_000_000_002


@as_root
def test_a_file_stays_open_without_its_name(stack: Stack) -> None:
    stack.add({})
    with mounted(stack, options=PASSTHROUGH) as mount:
        write_file(mount.path("f"), b"first")
        write_file(mount.path("g"), b"second")
        fd = os.open(mount.path("f"), os.O_RDWR)
        os.rename(mount.path("g"), mount.path("f"))
        os.pwrite(fd, b"F", 0)
        assert (os.pread(fd, 9, 0), read_file(mount.path("f"))) == (b"First", b"second")
        os.close(fd)


@as_root
def test_the_uppers_disk_is_free_once_the_mount_has_ended(stack: Stack) -> None:
    stack.add({})
    disk = os.path.join(stack.directory, "disk")
    os.mkdir(disk)
    syscalls.mount(b"disk", os.fsencode(disk), b"tmpfs", 0)
    upper, work = (os.path.join(disk, name) for name in ("upper", "work"))
    os.mkdir(upper)
    os.mkdir(work)
    with mounted(stack, upper=upper, work=work, options=PASSTHROUGH) as mount:
        for number in range(300):
            write_file(mount.path(f"f{number}"), b"x")
    syscalls.umount2(os.fsencode(disk))


@as_root
def test_with_a_limit_the_daemon_sees_each_write(stack: Stack) -> None:
    stack.add({})
    with (
        pytest.raises(MountRefused, match="has to see each write with a limit of the upper"),
        mounted(stack, options=PASSTHROUGH.replace(limit=1 << 20)),
    ):
        pass
    with mounted(stack, options=MountOptions(data="auto", limit=1 << 20)) as mount:
        with mount.requests() as requests:
            write_file(mount.path("f"), b"x")
        assert requests["write"] == 1


@as_ordinary_user
def test_in_a_user_namespace_it_is_refused_or_done_without(stack: Stack) -> None:
    stack.add({"f": File(b"old")})
    with (
        pytest.raises(MountRefused, match="outside of any user namespace"),
        mounted(stack, options=MountOptions(data="passthrough", userxattr=True)),
    ):
        pass
    with mounted(stack, options=MountOptions(data="auto", userxattr=True)) as mount:
        _overwrite(mount)


def _overwrite(mount: Mounted) -> None:
    write_file(mount.path("f"), b"new")
    assert read_file(mount.path("f")) == b"new"
