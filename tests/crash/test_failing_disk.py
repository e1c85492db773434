"""Errors of the file systems below reach the program unchanged, and the tree does not change."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from overlaykit.fuse.daemon import MountRefused

from ..fuse.mounted import mounted, only_with_open
from ..overlay.inside import as_ordinary_user, as_root
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix import syscalls
from ..posix.table import File
from .disks import cut_short, image, memory, mounted_image, put_upper_on
from .operations import OPERATIONS
from .recovered import below, leftovers, shown
from .scenarios import build, look, run, trees

LOST = b"out of reach"


@as_root
def test_a_bad_sector_of_a_lower_is_an_error_for_its_file_alone(stack: Stack) -> None:
    with image(stack.directory, "mkfs.ext4", "-q", megabytes=8) as (file, path):
        write(os.path.join(path, "bad"), LOST * 5000)
        write(os.path.join(path, "good"), b"good")
    with mounted_image(file, path, "ro,noload"):
        stack.lowers.append(path)
        with mounted(stack) as mount:
            os.stat(mount.path("bad"))  # reads its extents
            with open(file, "r+b") as disk:
                disk.truncate(disk.read().find(LOST))
            for attempt in (read, append, chmod):
                with refused(errno.EIO):
                    attempt(mount.path("bad"))
            assert leftovers(stack, {}) == []
            append(mount.path("good"))
            os.unlink(mount.path("bad"))
            assert sorted(os.listdir(mount.target)) == ["good", "lost+found"]


@only_with_open
@as_root
def test_an_exceeded_quota_is_an_error_and_leaves_the_lower_file_whole(stack: Stack) -> None:
    lower = stack.add({"large": File(b"x" * 600_000), "small": File(b"y")})
    with image(stack.directory, "mkfs.btrfs", "-q", megabytes=128) as (_, path):
        for command in (("quota", "enable"), ("qgroup", "limit", "256K", "0/5")):
            subprocess.run(["btrfs", *command, path], check=True)
        put_upper_on(stack, path)
        with mounted(stack) as mount:
            for attempt in (append, chmod):
                with refused(errno.EDQUOT):
                    attempt(mount.path("large"))
            assert leftovers(stack, {}) == []
            append(mount.path("small"))
            with open(mount.path("large"), "rb") as file:
                assert file.read() == b"x" * 600_000
    assert os.path.getsize(os.path.join(lower, "small")) == 1


@only_with_open
@as_root
def test_an_error_of_the_sync_is_reported_and_leaves_the_lower_file_whole(
    stack: Stack,
) -> None:
    """A thin disk is full: the file system on it gets the error when the copy's data are synced.

    The loop device makes EIO of a request of which a part could be written (drivers/block/loop.c).
    """
    stack.add({"large": File(b"x" * 600_000), "small": File(b"y")})
    under = os.path.join(stack.directory, "under")
    with (
        memory(under) as below,
        image(under, "mkfs.ext4", "-q", "-O^has_journal", megabytes=16) as (_, path),
    ):
        put_upper_on(stack, path)
        with mounted(stack) as mount:
            below.leave("pages", 0)
            for attempt in (append, chmod):
                with refused(errno.ENOSPC, errno.EIO):
                    attempt(mount.path("large"))
            assert leftovers(stack, {}) == []
            with open(mount.path("large"), "rb") as file:
                assert file.read() == b"x" * 600_000
            below.leave("pages", 4096)
            append(mount.path("small"))


@as_root
def test_a_bad_sector_of_the_upper_is_an_error(stack: Stack) -> None:
    stack.add({})
    with image(stack.directory, "mkfs.ext4", "-q", megabytes=8) as (file, path):
        put_upper_on(stack, path)
        os.mkdir(stack.upper)
        write(os.path.join(stack.upper, "bad"), LOST * 5000)
        write(os.path.join(stack.upper, "good"), b"good")
    with mounted_image(file, path, "noload"), mounted(stack) as mount:
        os.stat(mount.path("bad"))
        with open(file, "r+b") as disk:
            disk.truncate(disk.read().find(LOST))
        with refused(errno.EIO):
            read(mount.path("bad"))
        os.unlink(mount.path("bad"))
        assert os.listdir(mount.target) == ["good"]


@only_with_open
@as_root
def test_a_write_error_is_reported_and_leaves_the_lower_file_whole(stack: Stack) -> None:
    stack.add({"large": File(b"x" * 600_000)})
    with image(stack.directory, "mkfs.ext4", "-q", "-O^has_journal", megabytes=16) as (file, path):
        put_upper_on(stack, path)
        os.mkdir(stack.upper)
        write(os.path.join(stack.upper, "changed"), b"old")
        os.sync()
        with mounted(stack) as mount:
            with cut_short(file, megabytes=2):
                for attempt in (append, chmod):
                    with refused(errno.EIO):
                        attempt(mount.path("large"))
                assert leftovers(stack, {"changed"}) == []
                with open(mount.path("changed"), "r+b", buffering=0) as changed:
                    changed.write(b"new")
                    with refused(errno.EIO):
                        os.fsync(changed.fileno())
                with open(mount.path("large"), "rb") as large:
                    assert large.read() == b"x" * 600_000
            for name in ("large", "changed"):
                append(mount.path(name))
                with open(mount.path(name), "rb") as again:
                    assert again.read().endswith(b"more")
                    os.fsync(again.fileno())


@as_root
def test_limits_of_the_disk_are_reported_with_its_errors(stack: Stack) -> None:
    """The largest link count and file size of ext4, by its documentation."""
    stack.add({})
    max_links, max_size = 65000, 4 << 40  # with blocks of 1 KiB
    with image(stack.directory, "mkfs.ext4", "-q", "-b1024", megabytes=16) as (_, path):
        put_upper_on(stack, path)
        os.mkdir(stack.upper)
        write(os.path.join(stack.upper, "f"), b"x")
        here = os.open(stack.upper, os.O_RDONLY | os.O_DIRECTORY)
        for number in range(1, max_links):
            os.link("f", f"{number}", src_dir_fd=here, dst_dir_fd=here)
        os.close(here)
        with mounted(stack) as mount:
            with refused(errno.EMLINK):
                os.link(mount.path("f"), mount.path("one more"))
            os.unlink(mount.path("1"))
            os.link(mount.path("f"), mount.path("one more"))
            with refused(errno.EFBIG):
                os.truncate(mount.path("f"), max_size + 1)
            with open(mount.path("f"), "r+b", buffering=0) as file:
                file.seek(max_size + 1)
                with refused(errno.EFBIG):  # of write(2), or of fsync(2) with writeback
                    file.write(b"y")
                    os.fsync(file.fileno())
            with open(mount.path("f"), "rb") as file:
                assert file.read(1) == b"x"


@only_with_open
@as_root
def test_an_immutable_file_of_a_lower_can_be_changed_and_one_of_the_upper_cannot(
    stack: Stack,
) -> None:
    with image(stack.directory, "mkfs.ext4", "-q", megabytes=8) as (_, path):
        stack.lowers.append(os.path.join(path, "lower"))
        put_upper_on(stack, path)
        for directory in (stack.lowers[0], stack.upper):
            os.mkdir(directory)
        for name in ("lower/changed", "lower/removed", "upper/fixed"):
            write(os.path.join(path, name), b"x")
            subprocess.run(["chattr", "+i", os.path.join(path, name)], check=True)
        with mounted(stack) as mount:
            append(mount.path("changed"))
            os.unlink(mount.path("removed"))
            for attempt in (append, chmod, os.unlink):
                with refused(errno.EPERM):
                    attempt(mount.path("fixed"))
            assert sorted(os.listdir(mount.target)) == ["changed", "fixed"]
            read(mount.path("fixed"))
        assert sorted(os.listdir(stack.lowers[0])) == ["changed", "removed"]


@as_ordinary_user
def test_a_lower_file_that_the_user_may_not_read_is_not_copied_up(stack: Stack) -> None:
    stack.lowers.append("/etc")
    with mounted(stack) as mount:
        for attempt in (read, append):
            with refused(errno.EACCES):
                attempt(mount.path("shadow"))
        assert leftovers(stack, {}) == []


@only_with_open
def test_a_disk_that_became_read_only_refuses_every_change(stack: Stack) -> None:
    names = [name for name, one in OPERATIONS.items() if not (one.root_only and stack.unprivileged)]
    expected = trees(stack, *names)
    path = os.path.join(stack.directory, "memory")
    with memory(path):
        put_upper_on(stack, path)
        build(stack, *names)
        with mounted(stack) as mount:
            _remount(path, syscalls.MS_RDONLY)
            for name in names:
                with refused(errno.EROFS):
                    run(name, mount.target)
                assert look(name, mount.target) == expected[name][0]
            _remount(path, 0)
            for name in names:
                run(name, mount.target)
        tree = shown(stack)
    for name in names:
        assert below(name, tree) == expected[name][1]


@only_with_open
def test_a_reader_from_a_read_only_time_sees_later_writes(
    stack: Stack,
) -> None:
    stack.add({})
    path = os.path.join(stack.directory, "memory")
    with memory(path):
        put_upper_on(stack, path)
        os.mkdir(stack.upper)
        write(os.path.join(stack.upper, "f"), b"1")
        with mounted(stack) as mount:
            _remount(path, syscalls.MS_RDONLY)
            with open(mount.path("f"), "rb") as reader:
                assert reader.read() == b"1"
                with refused(errno.EROFS):
                    append(mount.path("f"))
                _remount(path, 0)
                append(mount.path("f"))
                assert reader.read() == b"more"


def test_an_upper_on_a_read_only_disk_is_refused_with_that_reason(stack: Stack) -> None:
    stack.add({})
    path = os.path.join(stack.directory, "memory")
    with memory(path):
        put_upper_on(stack, path)
        for directory in (stack.upper, stack.work):
            os.mkdir(directory)
        _remount(path, syscalls.MS_RDONLY)
        with pytest.raises(MountRefused, match="Read-only file system"), mounted(stack):
            pass


@as_ordinary_user
def test_five_hundred_lowers_are_one_tree(stack: Stack) -> None:
    for number in range(500):
        own = str(number)
        stack.add({"all": File(own.encode()), f"d/{own}": File(own.encode())})
    names = {str(number) for number in range(500)}
    with mounted(stack) as mount:
        assert set(os.listdir(mount.path("d"))) == names
        append(mount.path("all"))
        append(mount.path("d/499"))
        os.unlink(mount.path("d/250"))
    with mounted(stack) as mount:
        assert set(os.listdir(mount.path("d"))) == names - {"250"}
        for name, content in (("all", b"0more"), ("d/499", b"499more"), ("d/498", b"498")):
            with open(mount.path(name), "rb") as file:
                assert file.read() == content


def read(path: str) -> None:
    with open(path, "rb") as file:
        file.read()


def write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def append(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def chmod(path: str) -> None:
    os.chmod(path, 0o600)


def _remount(path: str, flags: int) -> None:
    syscalls.mount(b"none", os.fsencode(path), None, syscalls.MS_REMOUNT | flags)
