"""Copy-up copies the bytes and the holes of the source, by the fastest method that works."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Callable
from types import FrameType

import pytest

from overlaykit import _native, inodes

from .native.sandbox import on_image, refused, sandboxed

MIB = 1 << 20


def create(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


def filled(path: str, size: int) -> int:
    """A file of this size without holes, in which no two of its blocks are alike."""
    fd = create(path)
    for offset in range(0, size, 4096):
        os.pwrite(fd, offset.to_bytes(8, "big").ljust(min(4096, size - offset), b"."), offset)
    return fd


def with_holes(path: str) -> int:
    """A file that begins and ends with a hole, with runs of data that no block or chunk bounds."""
    fd = create(path)
    for start, length in ((12345, 1), (4 * MIB - 3, 17 * MIB + 8), (64 * MIB + 4096, 4097)):
        os.pwrite(fd, b"\xa5" * length, start)
    os.ftruncate(fd, 99 * MIB + 7)
    return fd


def runs(fd: int) -> list[tuple[int, int]]:
    """The runs of data, by SEEK_DATA and SEEK_HOLE."""
    found: list[tuple[int, int]] = []
    stop = 0
    while True:
        try:
            start = os.lseek(fd, stop, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return found
        stop = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, stop))


def same(a: int, b: int) -> bool:
    size = os.fstat(a).st_size
    return size == os.fstat(b).st_size and all(
        os.pread(a, MIB, offset) == os.pread(b, MIB, offset) for offset in range(0, size, MIB)
    )


def other_disk() -> None:
    os.mkdir("other")
    _native.mount("none", "other", "tmpfs", 0, "size=128m")


# ---- methods ----------------------------------------------------------------------------------


@on_image("mkfs.btrfs", "--quiet")
def test_a_gigabyte_costs_no_space_where_the_disk_can_clone() -> None:
    src = create("src")
    for offset in range(0, 1024 * MIB, 128 * MIB):
        os.pwrite(src, b"\x5a" * (8 * MIB), offset)
    os.ftruncate(src, 1024 * MIB)
    for copy in range(5):  # more than the image could hold
        dst = create(f"dst{copy}")
        assert inodes.copy(src, dst) == "clone"
        assert os.fstat(dst).st_size == 1024 * MIB
        assert runs(dst) == runs(src)
        assert os.pread(dst, 8 * MIB, 896 * MIB) == b"\x5a" * (8 * MIB)
    os.pwrite(dst, b"changed", 0)
    assert os.pread(src, 7, 0) == b"\x5a" * 7


@on_image("mkfs.ext4", "-q")
def test_the_kernel_copies_where_the_disk_cannot_clone() -> None:
    src, dst = filled("src", 17 * MIB + 3), create("dst")
    assert inodes.copy(src, dst) == "copy_file_range"
    assert same(src, dst)


@on_image("mkfs.ext4", "-q")
def test_holes_stay_holes_on_a_disk() -> None:
    src, dst = with_holes("src"), create("dst")
    os.fsync(src)
    assert inodes.copy(src, dst) == "copy_file_range"
    os.fsync(dst)
    assert same(src, dst)
    assert runs(src) == runs(dst)
    assert len(runs(dst)) == 3


@sandboxed
def test_a_file_is_copied_whole_within_a_file_system() -> None:
    src, dst = filled("src", 17 * MIB + 3), create("dst")
    assert inodes.copy(src, dst) == "copy_file_range"
    assert same(src, dst)


@sandboxed
def test_a_file_is_copied_whole_across_file_systems() -> None:
    other_disk()
    src, dst = filled("src", 17 * MIB + 3), create("other/dst")
    assert inodes.copy(src, dst) == "read_write"
    assert same(src, dst)


@sandboxed
def test_a_sparse_gigabyte_takes_no_more_room_than_before() -> None:
    src, dst = create("src"), create("dst")
    os.ftruncate(src, 1024 * MIB)
    os.pwrite(src, b"data", 512 * MIB)
    inodes.copy(src, dst)
    assert os.fstat(dst).st_size == 1024 * MIB
    assert os.fstat(dst).st_blocks == os.fstat(src).st_blocks
    assert os.pread(dst, 4, 512 * MIB) == b"data"


@sandboxed
def test_holes_stay_holes_by_either_way() -> None:
    other_disk()
    src = with_holes("src")
    for path, way in (("dst", "copy_file_range"), ("other/dst", "read_write")):
        dst = create(path)
        assert inodes.copy(src, dst) == way
        assert same(src, dst)
        assert runs(src) == runs(dst)
        assert len(runs(dst)) == 3


@sandboxed
def test_nothing_but_hole_keeps_its_length() -> None:
    src, dst = create("src"), create("dst")
    os.ftruncate(src, 10 * MIB + 1)
    assert inodes.copy(src, dst) == "none"
    assert (os.fstat(dst).st_size, os.fstat(dst).st_blocks) == (10 * MIB + 1, 0)


@sandboxed
def test_an_empty_file_is_copied_and_so_is_metadata_alone() -> None:
    assert inodes.copy(create("empty"), create("copy")) == "none"
    assert os.stat("copy").st_size == 0
    assert inodes.copy(filled("src", 10), create("dst"), data=False) == "none"
    assert os.stat("dst").st_size == 0


@sandboxed
def test_files_without_a_length_in_stat_are_copied_whole() -> None:
    for path in (
        "/proc/version",
        "/proc/self/mountinfo",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ):
        dst = create("dst")
        src = os.open(path, os.O_RDONLY)
        assert inodes.copy(src, dst, uid=0, gid=0) == "read_write"
        assert os.pread(dst, MIB, 0) == os.pread(src, MIB, 0) != b""
        os.unlink("dst")


@sandboxed
def test_the_offset_of_a_descriptor_does_not_matter() -> None:
    src, dst = filled("src", 10000), create("dst")
    os.lseek(src, 7000, os.SEEK_SET)
    os.lseek(dst, 123456, os.SEEK_SET)
    inodes.copy(src, dst)
    assert same(src, dst)


# ---- failure ----------------------------------------------------------------------------------


@sandboxed
def test_a_full_disk_is_reported() -> None:
    os.mkdir("small")
    _native.mount("none", "small", "tmpfs", 0, "size=1m")
    src, dst = filled("src", 2 * MIB), create("small/dst")
    with refused(errno.ENOSPC):
        inodes.copy(src, dst)
    os.ftruncate(dst, 0)
    src = filled("small/src", 3 * MIB // 4)
    with refused(errno.ENOSPC):
        inodes.copy(src, dst)


@sandboxed
def test_descriptors_of_the_wrong_kind_or_mode_are_refused() -> None:
    src, dst = filled("src", 10), create("dst")
    with refused(errno.EBADF):
        inodes.copy(os.open("src", os.O_PATH), dst)
    with refused(errno.EBADF):
        inodes.copy(src, os.open("dst", os.O_RDONLY))
    with refused(errno.EBADF):
        inodes.copy(999, dst)


def at_the_first_write(act: Callable[[], None]) -> None:
    """Run `act` in a signal handler once a file in the working directory is written (dnotify, fcntl(2))."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        act()

    signal.signal(signal.SIGIO, handle)
    fcntl.fcntl(os.open(".", os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_MODIFY)


@sandboxed
def test_ctrl_c_ends_a_copy_under_way() -> None:
    src, dst = filled("src", 17 * MIB), create("dst")

    def interrupt() -> None:
        raise KeyboardInterrupt

    at_the_first_write(interrupt)
    with pytest.raises(KeyboardInterrupt):
        inodes.copy(src, dst)
    assert 0 < os.fstat(dst).st_size <= 8 * MIB


@sandboxed
def test_a_signal_handler_that_returns_does_not_disturb_a_copy() -> None:
    src, dst = filled("src", 17 * MIB + 3), create("dst")
    handled: list[bool] = []
    at_the_first_write(lambda: handled.append(True))
    inodes.copy(src, dst)
    assert handled
    assert same(src, dst)


@sandboxed
def test_a_file_cut_short_during_its_copy_is_copied_to_its_new_end() -> None:
    src, dst = filled("src", 33 * MIB), create("dst")
    at_the_first_write(lambda: os.ftruncate(src, 20 * MIB + 1))
    inodes.copy(src, dst)
    assert same(src, dst)


@sandboxed
def test_a_file_that_grows_during_its_copy_is_copied_to_its_old_end() -> None:
    src, dst = filled("src", 17 * MIB), create("dst")
    at_the_first_write(lambda: os.ftruncate(src, 40 * MIB))
    inodes.copy(src, dst)
    assert os.fstat(dst).st_size == 17 * MIB
