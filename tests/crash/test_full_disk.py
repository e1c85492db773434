"""A disk that is full at any step of any operation: the program gets ENOSPC, and the tree does not change."""

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
from .disks import PLENTY, Disk, Filled, Kind, image, memory, put_upper_on
from .operations import OPERATIONS
from .recovered import below, lasting, leftovers, shown
from .scenarios import build, look, run, trees

FREE = (*range(16), 20, 30, 50, 100)
"""Numbers of free inodes or pages; the last suffices for every operation."""

FULL = (errno.ENOSPC, errno.EXDEV)
"""EXDEV as from the kernel's overlayfs, where setting a redirect fails: a file system may mean that it is too long."""


@pytest.mark.parametrize("kind", ["inodes", "pages"])
def test_a_full_tmpfs_changes_nothing(stack: Stack, kind: Kind) -> None:
    path = os.path.join(stack.directory, "memory")
    with memory(path) as disk:
        put_upper_on(stack, path)
        _run_all_on_a_full_disk(stack, disk, kind)


@as_root
@pytest.mark.one_in(2)
@pytest.mark.parametrize("metacopy", [False, True])
def test_a_full_disk_changes_nothing(stack: Stack, metacopy: bool) -> None:
    stack.metacopy = metacopy
    with image(stack.directory, "mkfs.ext4", "-q", "-m0", megabytes=8) as (_, path):
        put_upper_on(stack, path)
        _run_all_on_a_full_disk(stack, Filled(path), "pages")


def test_the_last_inode_makes_a_whiteout(stack: Stack) -> None:
    """Its spare does not fit, and is not needed."""
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


def test_hard_links_without_an_index_can_be_used_after_the_disk_was_full(
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
            for free in FREE:
                disk.leave("inodes", free)
                with contextlib.suppress(OSError):
                    os.chmod(mount.path("a"), 0o600)
                    break
            disk.leave("inodes", PLENTY)
            for name in ("b", "c"):
                os.rename(mount.path(name), mount.path(f"{name}2"))
            assert sorted(os.listdir(mount.target)) == ["a", "b2", "c2"]
        assert set(shown(stack)) == {"", "a", "b2", "c2"}


def _run_all_on_a_full_disk(stack: Stack, disk: Disk, kind: Kind) -> None:
    names = [name for name, one in OPERATIONS.items() if not (one.root_only and stack.unprivileged)]
    expected = trees(stack, *names)
    build(stack, *names)
    refused: set[str] = set()
    with mounted(stack) as mount:
        for name in names:
            before, after = expected[name]
            for free in FREE:
                disk.leave(kind, free)
                try:
                    run(name, mount.target)
                    break
                except OSError as error:
                    if error.errno not in FULL:
                        raise
                refused.add(name)
                assert look(name, mount.target) == before, (name, free)
                assert leftovers(stack, lasting(looked_at(mount.target))) == [], (name, free)
            assert look(name, mount.target) == after, name
        disk.leave(kind, PLENTY)
    assert refused >= {"truncation" if kind == "inodes" else "chmod of a file two directories deep"}
    tree = shown(stack)
    for name in names:
        assert below(name, tree) == expected[name][1], name
