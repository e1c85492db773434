"""Differences from the kernel's overlayfs (docs/differences.md) that the POSIX table allows for."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

import pytest

from overlaykit import _native, attributes

from ..crash.disks import upper_on_a_small_disk
from ..overlay.inside import as_root
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix.files import opened, wait_for_clock_tick, write_file
from ..posix.processes import ALICE, BOB, run_as_user
from ..posix.syscalls import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    fallocate,
)
from ..posix.table import Dir, Fifo, File
from .mounted import mounted, only_with_open

# ioctls of linux/fs.h
FICLONE = 0x40049409
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FIEMAP = 0xC020660B

LONG_AGO = 10**18


@pytest.mark.parametrize(
    "mode", [0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE]
)
def test_fallocate_is_refused_and_posix_fallocate_writes_zeros(stack: Stack, mode: int) -> None:
    stack.add({"f": File(b"x" * 100)})
    with mounted(stack) as mount, opened(mount.path("f"), os.O_RDWR) as fd:
        with refused(errno.EOPNOTSUPP):
            fallocate(fd, mode, 0, 50)
        assert os.pread(fd, 999, 0) == b"x" * 100
        os.posix_fallocate(fd, 0, 200)
        assert os.pread(fd, 999, 0) == b"x" * 100 + b"\0" * 100


def test_holes_are_reported_as_data_and_stay_holes_on_disk(stack: Stack) -> None:
    stack.add({"f": File(b"x", size=1 << 20)})
    with mounted(stack) as mount, opened(mount.path("f"), os.O_RDWR) as fd:
        assert os.lseek(fd, 5, os.SEEK_DATA) == 5
        assert os.lseek(fd, 5, os.SEEK_HOLE) == 1 << 20
        os.pwrite(fd, b"y", 1 << 19)
        os.fsync(fd)
        assert os.fstat(fd).st_blocks * 512 < 1 << 19


def test_copy_file_range_copies_and_a_clone_is_refused(stack: Stack) -> None:
    stack.add({"f": File(b"copied")})
    with (
        mounted(stack) as mount,
        opened(mount.path("f"), os.O_RDONLY) as source,
        opened(mount.path("g"), os.O_RDWR | os.O_CREAT) as target,
    ):
        assert os.copy_file_range(source, target, 100) == 6
        assert os.pread(target, 100, 0) == b"copied"
        with refused(errno.EOPNOTSUPP):
            fcntl.ioctl(target, FICLONE, source)


def test_a_file_without_a_name_is_refused_so_that_programs_take_a_named_one(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount, refused(errno.EOPNOTSUPP):
        os.open(mount.target, os.O_TMPFILE | os.O_RDWR)


@pytest.mark.parametrize("name", ["f", "d", "new"])
def test_flags_of_files_are_neither_shown_nor_set(stack: Stack, name: str) -> None:
    stack.add({"f": File(), "d/below": File()})
    with mounted(stack) as mount:
        with open(mount.path("new"), "w"):
            pass
        with opened(mount.path(name), os.O_RDONLY) as fd:
            for request in (FS_IOC_GETFLAGS, FS_IOC_FSGETXATTR):
                with refused(errno.ENOTTY):
                    fcntl.ioctl(fd, request, bytearray(32))
            with refused(errno.ENOTTY):
                fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("q", 0))
            with refused(errno.EOPNOTSUPP):
                fcntl.ioctl(fd, FS_IOC_FIEMAP, bytearray(32))


def test_a_new_mode_copies_a_file_with_its_data(stack: Stack) -> None:
    stack.add({"f": File(b"x" * 100_000)})
    with mounted(stack) as mount:
        os.chmod(mount.path("f"), 0o600)
    with open(os.path.join(stack.upper, "f"), "rb") as file:
        assert file.read() == b"x" * 100_000


@only_with_open
@pytest.mark.parametrize("size", [1 << 20, 2 << 20])
def test_emptying_a_file_by_opening_it_wants_room_for_its_data(stack: Stack, size: int) -> None:
    stack.add({"f": File(b"x" * size)})
    with upper_on_a_small_disk(stack), mounted(stack) as mount:
        write_file(mount.path("other"), b"x" * 300_000)
        with refused(errno.ENOSPC):
            os.open(mount.path("f"), os.O_WRONLY | os.O_TRUNC)
        assert os.stat(mount.path("f")).st_size == size
        os.truncate(mount.path("f"), 0)
        assert os.stat(mount.path("f")).st_size == 0


def test_reading_a_file_leaves_its_access_time(stack: Stack) -> None:
    stack.add({"f": File(b"x" * 100_000, mtime_ns=LONG_AGO)})
    with mounted(stack) as mount:
        os.chmod(mount.path("f"), 0o600)
        mount.forget()
        with open(mount.path("f"), "rb") as file:
            assert len(file.read()) == 100_000
        mount.forget()
        assert os.stat(mount.path("f")).st_atime_ns == LONG_AGO
    assert os.stat(os.path.join(stack.upper, "f")).st_atime_ns == LONG_AGO


def test_a_fifo_keeps_its_time_when_it_is_written_to(stack: Stack) -> None:
    stack.add({"p": Fifo()})
    with mounted(stack) as mount:
        os.utime(mount.path("p"), ns=(LONG_AGO, LONG_AGO))
        with opened(mount.path("p"), os.O_RDWR) as fd:
            os.write(fd, b"x")
            assert os.read(fd, 1) == b"x"
        assert os.stat(mount.path("p")).st_mtime_ns == LONG_AGO


@as_root
def test_a_write_from_outside_the_group_keeps_a_set_group_id_bit_that_runs_no_program(
    stack: Stack,
) -> None:
    stack.add({"f": File(b"x", mode=0o2767, uid=ALICE, gid=ALICE)})
    with mounted(stack) as mount:
        with opened(mount.path("f"), os.O_WRONLY) as fd:
            run_as_user(BOB, lambda: os.ftruncate(fd, 0))
            run_as_user(BOB, lambda: os.write(fd, b"y"))
        assert stat.S_IMODE(os.stat(mount.path("f")).st_mode) == 0o2767


def test_at_the_next_mount_a_file_was_changed_when_it_was_written_back(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with mounted(stack) as mount:
        write_file(mount.path("f"), b"y")
        written = os.stat(mount.path("f")).st_ctime_ns
    on_disk = os.stat(os.path.join(stack.upper, "f")).st_ctime_ns
    with mounted(stack) as mount:
        assert os.stat(mount.path("f")).st_ctime_ns == on_disk >= written


def test_at_the_next_mount_a_directory_was_changed_when_it_was_copied_up(stack: Stack) -> None:
    lower = stack.add({"d": Dir(mtime_ns=LONG_AGO), "d/f": File(b"x")})
    before = os.stat(os.path.join(lower, "d")).st_ctime_ns
    with mounted(stack) as mount:
        wait_for_clock_tick()
        write_file(mount.path("d/f"), b"y")
        assert os.stat(mount.path("d")).st_ctime_ns == before
    on_disk = os.stat(os.path.join(stack.upper, "d"))
    assert on_disk.st_ctime_ns > before
    assert on_disk.st_mtime_ns == LONG_AGO
    with mounted(stack) as mount:
        assert os.stat(mount.path("d")).st_ctime_ns == on_disk.st_ctime_ns


@pytest.mark.parametrize("name", ["lower", "changed", "new", "d"])
def test_no_birth_time_is_shown(stack: Stack, name: str) -> None:
    stack.add({"lower": File(), "changed": File(), "d": Dir()})
    with mounted(stack) as mount:
        write_file(mount.path("changed"), b"x")
        write_file(mount.path("new"), b"x")
        found = attributes.statx(_native.AT_FDCWD, mount.path(name), 0, _native.STATX_BTIME)
        assert found.mask & _native.STATX_BTIME == 0


def test_the_access_times_of_directories_and_symlinks_are_the_disks(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount:
        os.mkdir(mount.path("d"))
        write_file(mount.path("d/f"), b"x")
        os.symlink("f", mount.path("s"))
        for name in ("d", "s"):
            os.utime(mount.path(name), ns=(LONG_AGO, LONG_AGO), follow_symlinks=False)
        assert os.listdir(mount.path("d")) == ["f"]
        assert os.readlink(mount.path("s")) == "f"
        mount.forget()
        for name in ("d", "s"):
            on_disk = os.lstat(os.path.join(stack.upper, name)).st_atime_ns
            assert os.lstat(mount.path(name)).st_atime_ns == on_disk


def test_a_lower_file_that_lost_its_name_is_changed_by_its_descriptor(stack: Stack) -> None:
    lower = stack.add({"f": File(b"x", mode=0o644)})
    with mounted(stack) as mount, opened(mount.path("f"), os.O_RDONLY) as fd:
        os.unlink(mount.path("f"))
        os.fchmod(fd, 0o600)
        os.utime(fd, ns=(LONG_AGO, LONG_AGO))
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
        assert os.fstat(fd).st_mtime_ns == LONG_AGO
        assert os.read(fd, 9) == b"x"
        assert os.listdir(mount.target) == []
    assert stat.S_IMODE(os.stat(os.path.join(lower, "f")).st_mode) == 0o644


def test_what_would_read_as_a_whiteout_is_not_made(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with mounted(stack) as mount:
        with refused(errno.EPERM):
            os.mknod(mount.path("n"), stat.S_IFCHR | 0o600, os.makedev(0, 0))
        assert os.listdir(mount.target) == ["f"]
