"""A layer's directories are opened by name below it, at any depth, with a bounded number of descriptors."""

from __future__ import annotations

import errno
import os
import resource

from overlaykit.overlay.descriptors import Descriptors
from overlaykit.overlay.layer import Layer

from ..posix.table import Dir, File, Symlink
from .deep import DEEP_NAMES, make_deep
from .stack import Stack
from .view import refused


def _layer(path: str, limit: int) -> Layer:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    return Layer(fd, 0, path=path, writable=False, descriptors=Descriptors(limit))


def test_a_symlink_in_a_path_is_not_followed(stack: Stack) -> None:
    layer = _layer(stack.add({"link": Symlink("/"), "up": Symlink("..")}), limit=10)
    for name in (b"link", b"up"):
        with refused(errno.ENOTDIR):
            layer.root.child(name).child(b"etc").fd()
    layer.close()


def test_no_name_leads_out_of_the_layer(stack: Stack) -> None:
    layer = _layer(stack.add({"d": Dir()}), limit=10)
    with refused(errno.EXDEV):
        layer.root.child(b"..").fd()
    layer.close()


def test_a_directory_deeper_than_path_max_is_reopened_after_eviction(stack: Stack) -> None:
    lower = stack.add({})
    os.close(make_deep(lower))
    layer = _layer(lower, limit=3)
    directory = layer.root
    for name in DEEP_NAMES:
        directory = directory.child(name.encode())
    inode = directory.stat().st_ino
    layer.descriptors.trim()
    layer.descriptors.trim()
    assert len(layer.descriptors) <= 3
    assert os.fstat(directory.fd()).st_ino == inode
    assert [os.fsdecode(name) for name in directory.components()] == list(DEEP_NAMES)
    layer.descriptors.close()
    layer.close()


def test_descriptors_stay_below_their_bound(stack: Stack) -> None:
    layer = _layer(stack.add({f"d{number}": Dir() for number in range(50)}), limit=10)
    for number in range(50):
        layer.root.child(b"d%d" % number).fd()
        assert len(layer.descriptors) == min(number + 1, 11)
        layer.descriptors.trim()
        assert len(layer.descriptors) <= 10
    layer.descriptors.close()
    layer.close()


def test_a_descriptor_stays_open_until_the_operation_is_over(stack: Stack) -> None:
    layer = _layer(stack.add({f"d{number}": Dir() for number in range(50)}), limit=10)
    directories = [layer.root.child(b"d%d" % number) for number in range(50)]
    opened = [directory.fd() for directory in directories]
    assert [directory.fd() for directory in directories] == opened
    layer.descriptors.trim()
    assert len(layer.descriptors) == 10
    layer.descriptors.close()
    layer.close()


def test_a_wide_tree_is_read_with_few_descriptors(stack: Stack) -> None:
    stack.add({f"d{number}/e/f": File(b"") for number in range(100)})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))  # leaves some 60 for directories
    with stack.open(as_kernel=False, remount=False) as view:
        for number in range(100):
            view.write(f"d{number}/e/f", b"x")
            assert len(os.listdir("/proc/self/fd")) < 100
        assert view.read("d0/e/f") == b"x"


def test_an_orphaned_directory_outlives_its_name(stack: Stack) -> None:
    lower = stack.add({"d": Dir()})
    layer = _layer(lower, limit=10)
    kept = layer.root.child(b"d").orphan()
    os.rmdir(os.path.join(lower, "d"))
    assert kept.stat().st_nlink == 0
    kept.close()
    layer.descriptors.close()
    layer.close()
