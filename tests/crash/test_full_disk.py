"""The disk is full at every moment of every operation: the program is told so, and nothing else has happened."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from overlaykit.fuse.spec import MountOptions

from ..fuse.mounted import mounted
from ..overlay.inside import as_root
from ..overlay.seen import looked_at
from ..overlay.stack import Stack
from ..posix.table import File, Link
from .afterwards import astray, below, lasting, shown
from .disks import PLENTY, Disk, Filled, Kind, image, memory, put_upper_on
from .operations import OPERATIONS
from .staging import act, build, look, trees

ROOM = (*range(16), 20, 30, 50, 100)
"""Inodes or pages that are free: no operation of the table takes as many as the last."""

NO_ROOM = (errno.ENOSPC, errno.EXDEV)
"""EXDEV where a redirect finds no room, as from the kernel's overlayfs: a file system may mean that it is too long."""


@pytest.mark.parametrize("kind", ["inodes", "pages"])
def test_whoever_finds_no_room_in_memory_changes_nothing(stack: Stack, kind: Kind) -> None:
    path = os.path.join(stack.directory, "memory")
    with memory(path) as disk:
        put_upper_on(stack, path)
        _do_all_in_little_room(stack, disk, kind)


@as_root
def test_whoever_finds_no_room_on_a_disk_changes_nothing(stack: Stack) -> None:
    with image(stack.directory, "mkfs.ext4", "-q", "-m0", megabytes=8) as (_, path):
        put_upper_on(stack, path)
        _do_all_in_little_room(stack, Filled(path), "pages")


def test_the_last_inode_makes_a_whiteout(stack: Stack) -> None:
    """A spare whiteout beside it finds no room, and is not needed."""
    stack.add({"a": File(b"x")})
    path = os.path.join(stack.directory, "memory")
    with memory(path) as disk:
        put_upper_on(stack, path)
        with mounted(stack) as mount:
            disk.leave("inodes", 1)
            os.unlink(mount.path("a"))
            assert os.listdir(os.path.join(stack.work, "work")) == []
            disk.leave("inodes", PLENTY)
        assert set(shown(stack)) == {""}


def test_hard_links_without_an_index_can_be_used_after_there_was_no_room_for_them(
    stack: Stack,
) -> None:
    stack.add({"a": File(b"x"), "b": Link("a"), "c": Link("a")})
    path = os.path.join(stack.directory, "memory")
    options = MountOptions(userxattr=stack.unprivileged, index=False)
    with memory(path) as disk:
        put_upper_on(stack, path)
        with mounted(stack, options=options) as mount:
            for name in ("a", "b", "c"):
                os.stat(mount.path(name))
            for free in ROOM:
                disk.leave("inodes", free)
                with contextlib.suppress(OSError):
                    os.chmod(mount.path("a"), 0o600)
                    break
            disk.leave("inodes", PLENTY)
            for name in ("b", "c"):
                os.rename(mount.path(name), mount.path(f"{name}2"))
            assert sorted(os.listdir(mount.target)) == ["a", "b2", "c2"]
        assert set(shown(stack)) == {"", "a", "b2", "c2"}


def _do_all_in_little_room(stack: Stack, disk: Disk, kind: Kind) -> None:
    names = [name for name, one in OPERATIONS.items() if not (one.root_only and stack.unprivileged)]
    expected = trees(stack, *names)
    build(stack, *names)
    refused: set[str] = set()
    with mounted(stack) as mount:
        for name in names:
            before, after = expected[name]
            for free in ROOM:
                disk.leave(kind, free)
                try:
                    act(name, mount.target)
                    break
                except OSError as error:
                    if error.errno not in NO_ROOM:
                        raise
                refused.add(name)
                assert look(name, mount.target) == before, (name, free)
                assert astray(stack, lasting(looked_at(mount.target))) == [], (name, free)
            assert look(name, mount.target) == after, name
        disk.leave(kind, PLENTY)
    assert refused >= {"truncation" if kind == "inodes" else "chmod of a file two directories deep"}
    tree = shown(stack)
    for name in names:
        assert below(name, tree) == expected[name][1], name
