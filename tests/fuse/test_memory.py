"""The daemon forgets what the kernel forgets: a long-lived mount does not grow."""

from __future__ import annotations

import errno
import os

import pytest

from ..overlay.inside import as_root
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix.files import opened, read_file
from ..posix.syscalls import getdents64
from ..posix.table import Dir, File, Link
from ..processes import open_files
from .mounted import Mounted, mounted
from .random_changes import STARTING_POINT, play

NOTHING_HELD = {"nodes": 1, "nlookup": 1, "open_files": 0}
OPERATIONS = 10_000


def _forget_everything(mount: Mounted) -> None:
    """Make the kernel drop dentries and inodes, and wait until the daemon has had its FORGET requests."""
    mount.forget()
    mount.await_held(**NOTHING_HELD)


@as_root
def test_reading_a_tree_leaves_nothing_once_it_is_forgotten(stack: Stack) -> None:
    stack.add({f"a{number % 20}/b/{number}": File(b"x") for number in range(400)})
    with mounted(stack) as mount:
        for directory, _, files in os.walk(mount.target):
            for name in files:
                assert read_file(os.path.join(directory, name)) == b"x"
        assert mount.counted().held["nodes"] > 400
        _forget_everything(mount)


@as_root
def test_ten_thousand_random_operations_leave_no_node_and_no_descriptor(stack: Stack) -> None:
    layer = {name: File(b"x" * 100) for name in STARTING_POINT}
    stack.add(layer | {"d0/a": File(b"hard"), "d1/a": Link("d0/a")})
    with mounted(stack) as mount:
        _forget_everything(mount)
        before = _open_files(mount)
        play(mount.target, 2026, OPERATIONS)
        _forget_everything(mount)
        assert _open_files(mount) <= before


@pytest.mark.parametrize("size", [32, 100, 4096])
def test_listings_in_parts_and_listings_given_up_leave_nothing(stack: Stack, size: int) -> None:
    names = {str(number) for number in range(300)}
    stack.add({f"d/{name}": File() for name in names} | {"d/s": Dir(), "d/s/below": File()})
    stack.add({f"d/s/{name}": File() for name in names})
    with mounted(stack) as mount:
        for directory in ("d", "d/s"):
            with opened(mount.path(directory), os.O_RDONLY | os.O_DIRECTORY) as fd:
                first = getdents64(fd, size)
                os.lseek(fd, first[-1].offset, os.SEEK_SET)
                # The rest is not read.
                getdents64(fd, size)
                os.lseek(fd, 0, os.SEEK_SET)
                listed = []
                while part := getdents64(fd, size):
                    listed += part
                    gone = part[-1].name.decode()
                    if gone in names:
                        os.unlink(gone, dir_fd=fd)
                assert {entry.name.decode() for entry in listed} >= names
        held = mount.forget()
        assert {kind: held[kind] for kind in NOTHING_HELD} == NOTHING_HELD


@as_root
def test_a_listing_with_a_name_that_cannot_be_looked_up_leaves_nothing(stack: Stack) -> None:
    no_path = {stack.marker("redirect"): b"../x"}
    stack.add({f"d/{number}": File() for number in range(100)} | {"d/x": Dir(xattrs=no_path)})
    stack.add({"d/x": Dir()})
    with mounted(stack) as mount:
        assert len(os.listdir(mount.path("d"))) == 101
        with refused(errno.EIO):
            os.stat(mount.path("d/x"))
        held = mount.forget()
        assert {kind: held[kind] for kind in NOTHING_HELD} == NOTHING_HELD


def _open_files(mount: Mounted) -> int:
    """The number of descriptors that the daemon has open, without the cached ones.

    Those are of directories, and of the name of the program for which it has copied a file up last.
    """
    targets = [one for one in open_files(mount.process.pid) if not one.endswith("/comm")]
    return sum(target.startswith("/") for target in targets) - mount.counted().held["directories"]


def test_a_mount_that_is_read_again_and_again_does_not_grow(stack: Stack) -> None:
    stack.add({f"d/{number}": File(b"x") for number in range(100)})
    with mounted(stack) as mount:
        counts = set()
        for _ in range(5):
            for name in os.listdir(mount.path("d")):
                with open(mount.path(f"d/{name}"), "rb") as file:
                    assert file.read() == b"x"
            counts.add(mount.counted().held["nodes"])
        assert len(counts) == 1


def test_files_that_were_removed_are_let_go(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount:
        os.stat(mount.target)
        before = _open_files(mount)
        for number in range(200):
            with open(mount.path("f"), "wb") as file:
                file.write(b"%d" % number)
                os.unlink(mount.path("f"))

        mount.await_held(**NOTHING_HELD)
        assert _open_files(mount) <= before
