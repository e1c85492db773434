"""A power cut after an operation: the disk has the tree after, with every byte of every file.

The disk is an image on a loop device: the test copies the image at some moment and mounts the copy. Its file system,
ext4, may write the rename that makes a file visible before the file's data: a copy that was not synced is then empty
(mount option "auto_da_alloc" in ext4(5)).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest

from overlaykit.fuse.spec import MountOptions
from overlaykit.overlay.disk import probe

from ..fuse.mounted import mounted, only_with_open
from ..overlay.inside import as_root
from ..overlay.stack import Stack
from .disks import image, mounted_image, put_upper_on
from .operations import OPERATIONS
from .recovered import below, shown
from .scenarios import build, run, trees

pytestmark = as_root  # to mount an image


@pytest.mark.parametrize("metacopy", [False, True])
def test_a_power_cut_after_any_operation_leaves_every_file_whole(
    stack: Stack, metacopy: bool
) -> None:
    stack.metacopy = metacopy
    with disk(stack) as (file, path):
        expected = trees(stack, *OPERATIONS)
        build(stack, *OPERATIONS)
        with mounted(stack) as mount:
            for name in OPERATIONS:
                run(name, mount.target)
                with after_a_power_cut(stack, file, path) as left:
                    assert below(name, shown(left)) == expected[name][1], name


def test_a_power_cut_on_a_volatile_mount_empties_what_was_copied(stack: Stack) -> None:
    """The control of the test before: without the sync it would fail."""
    name = "rename of a lower file"
    with disk(stack) as (file, path):
        expected = trees(stack, name)
        build(stack, name)
        with mounted(stack, options=MountOptions(volatile=True)) as mount:
            run(name, mount.target)
            with after_a_power_cut(stack, file, path) as left:
                found = below(name, shown(left))["x/n"]
    assert found.content is not None
    assert found.content.strip(b"\0") == b""
    assert expected[name][1]["x/n"].content


@only_with_open
def test_a_power_cut_on_a_volatile_mount_empties_a_metacopy_that_was_opened(stack: Stack) -> None:
    """The control for metacopies, whose data are copied in place."""
    stack.metacopy = True
    name = "open of a metacopy for writing"
    with disk(stack) as (file, path):
        build(stack, name)
        options = MountOptions(volatile=True, metacopy=True)
        with mounted(stack, options=options) as mount:
            run(name, mount.target)
            with after_a_power_cut(stack, file, path) as left:
                found = below(name, shown(left))["f"]
    assert found.content is not None
    assert found.content.strip(b"\0") == b""


def test_what_a_program_has_synced_outlives_a_power_cut(stack: Stack) -> None:
    stack.add({})
    with disk(stack) as (file, path), mounted(stack) as mount:
        with open(mount.path("new"), "wb") as new:
            new.write(b"precious")
            new.flush()
            os.fsync(new.fileno())
        with after_a_power_cut(stack, file, path) as left:
            assert shown(left)["new"].content == b"precious"


@pytest.mark.parametrize("dirsync", [True, False])
def test_with_dirsync_a_new_name_outlives_a_power_cut(stack: Stack, dirsync: bool) -> None:
    stack.add({})
    options = MountOptions(dirsync=dirsync)
    with disk(stack) as (file, path), mounted(stack, options=options) as mount:
        os.mkdir(mount.path("made"))
        os.rename(mount.path("made"), mount.path("renamed"))
        with after_a_power_cut(stack, file, path, commit=False) as left:
            assert list(shown(left)) == (["", "renamed"] if dirsync else [""])


@contextlib.contextmanager
def disk(stack: Stack) -> Iterator[tuple[str, str]]:
    with image(stack.directory, "mkfs.ext4", "-q", megabytes=8) as (file, path):
        put_upper_on(stack, path)
        # So that no sync of a copy waits for the journal.
        assert probe(os.fsencode(path), user=False).orders_data
        yield file, path


@contextlib.contextmanager
def after_a_power_cut(
    stack: Stack, file: str, path: str, *, commit: bool = True
) -> Iterator[Stack]:
    """The stack on a copy of the image; `commit`: with the journal, so with the names, written."""
    if commit:
        with open(os.path.join(path, "other"), "wb") as other:
            os.fsync(other.fileno())  # commits the journal, with the changes of other files
    directory = os.path.join(stack.directory, "cut")
    os.mkdir(directory)
    shutil.copyfile(file, os.path.join(directory, "image"))
    left = Stack(directory, unprivileged=stack.unprivileged)
    left.lowers = stack.lowers
    left.metacopy = stack.metacopy
    with mounted_image(os.path.join(directory, "image"), os.path.join(directory, "disk")):
        put_upper_on(left, os.path.join(directory, "disk"))
        yield left
    shutil.rmtree(directory)
