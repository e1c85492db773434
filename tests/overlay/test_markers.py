"""The markers on disk are byte for byte those that the kernel's overlayfs writes for the same changes."""

from __future__ import annotations

import os
import stat
import time

import pytest

from overlaykit.overlay import began
from overlaykit.overlay.marker_names import TRUSTED_PREFIX, USER_PREFIX, is_whiteout_device
from overlaykit.overlay.markers import (
    FUSE_OVERLAYFS_PREFIX,
    DirectoryMarkers,
    Markers,
    Origin,
    find_origin,
)

from ..posix.files import read_file
from ..posix.table import Dir, File, Layer, Link
from .inside import as_root
from .stack import Stack

CHANGES: Layer = {
    "f": File(b"x"),
    "gone": File(),
    "replaced/old": File(),
    "d/f": File(b"x"),
    "d/sub/f": File(),
    "moved/f": File(),
    "a/b": File(b"linked"),
    "a/c": Link("a/b"),
}


def _markers_of(upper: str, prefix: str) -> dict[str, dict[str, bytes]]:
    """The markers of every file in an upper, by path."""
    found: dict[str, dict[str, bytes]] = {}
    for directory, names, files in os.walk(upper):
        for name in names + files:
            path = os.path.join(directory, name)
            if not stat.S_ISCHR(os.lstat(path).st_mode):
                found[os.path.relpath(path, upper)] = {
                    name: os.getxattr(path, name, follow_symlinks=False)
                    for name in os.listxattr(path, follow_symlinks=False)
                    if name.startswith(f"{prefix}.overlay.")
                }
    return found


def _whiteouts_of(upper: str) -> set[str]:
    return {
        os.path.relpath(os.path.join(directory, name), upper)
        for directory, _, files in os.walk(upper)
        for name in files
        if is_whiteout_device(os.lstat(os.path.join(directory, name)))
    }


def test_our_upper_has_the_markers_of_the_kernels_overlayfs(stack: Stack) -> None:
    stack.add(CHANGES)
    redirects = not stack.unprivileged  # the kernel makes none for an ordinary user
    with stack.open() as view:
        view.write("f", b"y")
        view.unlink("gone")
        view.unlink("replaced/old")
        view.rmdir("replaced")
        view.mkdir("replaced")
        view.write("d/f", b"y")
        if redirects:
            view.rename("moved", "moved2")
            view.rename("d/sub", "sub")
    ours = _markers_of(stack.upper, stack.prefix)
    our_whiteouts = _whiteouts_of(stack.upper)
    stack.upper += "-of-the-kernel"
    stack.work += "-of-the-kernel"
    with stack.mounted_by_the_kernel() as target:
        os.chdir(target)
        for name in ("f", "d/f"):
            with open(name, "r+b") as file:
                file.write(b"y")
        os.unlink("gone")
        os.unlink("replaced/old")
        os.rmdir("replaced")
        os.mkdir("replaced")
        if redirects:
            os.rename("moved", "moved2")
            os.rename("d/sub", "sub")
        os.chdir("/")
    kernels = _markers_of(stack.upper, stack.prefix)
    assert our_whiteouts == _whiteouts_of(stack.upper)
    assert ours.keys() == kernels.keys()
    for path, markers in kernels.items():
        markers.pop(stack.marker("uuid"), None)  # the root's, if the kernel generates one
        if stack.unprivileged and stack.marker("origin") in markers:
            # Unprivileged, the kernel cannot open a file handle.
            assert markers.pop(stack.marker("origin")) == b""
            assert ours[path].pop(stack.marker("origin"))
        elif stack.marker("origin") in markers:  # which the kernel reads up to the end of its own
            theirs = markers.pop(stack.marker("origin"))
            assert ours[path].pop(stack.marker("origin")).startswith(theirs)
        assert ours[path] == markers, path


@as_root
def test_our_index_has_the_names_of_the_kernels_index(stack: Stack) -> None:
    stack.add(CHANGES)
    with stack.open() as view:
        view.write("a/b", b"new")
    ours = os.listdir(os.path.join(stack.work, "index"))
    stack.upper += "-of-the-kernel"
    stack.work += "-of-the-kernel"
    with stack.mounted_by_the_kernel() as target, open(os.path.join(target, "a/b"), "wb"):
        pass
    assert os.listdir(os.path.join(stack.work, "index")) == ours


@as_root
def test_the_kernels_markers_are_read(stack: Stack) -> None:
    stack.add(CHANGES)
    with stack.mounted_by_the_kernel() as target:
        os.chdir(target)
        with open("a/b", "wb") as file:
            file.write(b"new")
        os.rename("moved", "d/moved")
        os.rename("d", "e")
        os.unlink("gone")
        os.unlink("replaced/old")
        os.rmdir("replaced")
        os.mkdir("replaced")
        os.chdir("/")
    with stack.open() as view:
        assert sorted(view.names()) == ["a", "e", "f", "replaced"]
        assert view.read("a/c") == b"new"
        assert view.names("e/moved") == ["f"]
        assert view.names("replaced") == []


@as_root
def test_the_kernel_reads_origins_that_say_when_the_file_changed(stack: Stack) -> None:
    lower = stack.add({"a": File(b"linked"), "b": Link("a"), "f": File(b"x")})
    below = os.stat(f"{lower}/f")
    while not began.is_settled(max(os.stat(f"{lower}/{name}").st_ctime_ns for name in "abf")):
        time.sleep(0)
    with stack.open() as view:
        view.write("a", b"new")
        view.write("f", b"y")
    origin = Origin.decode(os.getxattr(f"{stack.upper}/f", stack.marker("origin")))
    assert origin is not None
    assert origin.changed_ns == below.st_ctime_ns
    with stack.mounted_by_the_kernel() as target:
        assert os.stat(f"{target}/f").st_ino == below.st_ino
        assert read_file(f"{target}/f") == b"y"
        assert read_file(f"{target}/b") == b"newked"  # by the index
        assert os.stat(f"{target}/a").st_ino == os.stat(f"{target}/b").st_ino


def test_an_origin_is_read_as_it_was_written() -> None:
    origin = Origin(1, bytes(range(16)), b"12345678")
    assert Origin.decode(origin.encode()) == origin
    assert Origin.decode(origin.encode() + b"\1" + bytes(7)) == origin._replace(changed_ns=1)
    assert origin.index_name() == origin.encode().hex().encode()


@pytest.mark.parametrize("raw", [b"", b"x", bytes(21), b"\0\xfb\x20\0\1" + bytes(24)])
def test_an_origin_that_is_unknown_or_garbage_is_none(raw: bytes) -> None:
    assert Origin.decode(raw) is None


@pytest.mark.parametrize(
    ("kind", "handle", "number"),
    [
        (0x01, (1234).to_bytes(4, "little") + b"gen.", 1234),  # ext4
        (0x01, b"gen." + (1 << 40).to_bytes(8, "little"), 1 << 40),  # tmpfs
        (0x81, (1 << 33).to_bytes(8, "little") + b"gen.", 1 << 33),  # xfs
        (0x4D, (257).to_bytes(8, "little") + bytes(12), 257),  # btrfs
        (0x77, bytes(8), None),
    ],
)
def test_an_origin_tells_the_inode_number(kind: int, handle: bytes, number: int | None) -> None:
    assert Origin(kind, bytes(16), handle).inode_number() == number


def test_the_origin_of_a_file_leads_to_its_inode(stack: Stack) -> None:
    lower = stack.add({"f": File()})
    fd = os.open(lower, os.O_PATH)
    origin = find_origin(fd, b"f", bytes(16))
    assert origin is not None
    assert origin.inode_number() == os.stat("f", dir_fd=fd).st_ino
    os.close(fd)


def test_every_form_of_opaque_is_read_and_one_is_written(stack: Stack) -> None:
    lower = os.fsencode(stack.add({"d": Dir()})) + b"/d"
    markers = Markers(USER_PREFIX if stack.unprivileged else TRUSTED_PREFIX)
    prefixes = [USER_PREFIX, FUSE_OVERLAYFS_PREFIX]
    if not stack.unprivileged:
        prefixes.append(TRUSTED_PREFIX)
    for prefix in prefixes:
        os.setxattr(lower, prefix + b"opaque", b"y")
        assert markers.of_directory(lower, upper=False) == DirectoryMarkers(opaque=True)
        os.removexattr(lower, prefix + b"opaque")
    assert markers.of_directory(lower, upper=False) == DirectoryMarkers()
    markers.set_opaque(lower)
    assert os.listxattr(lower) == [stack.marker("opaque")]


@pytest.mark.parametrize(
    ("stored", "count"),
    [(b"U+1", 4), (b"U-2", 1), (b"L+0", 5), (b"L-1", 4), (b"X+1", None), (b"Ufoo", None)],
)
def test_a_link_count_is_a_difference(stack: Stack, stored: bytes, count: int | None) -> None:
    path = os.fsencode(stack.add({"f": File()})) + b"/f"
    os.setxattr(path, stack.marker("nlink"), stored)
    markers = Markers(stack.prefix.encode() + b".overlay.")
    assert markers.link_count(path, upper=3, lower=lambda: 5) == count


def test_a_link_count_is_written_as_the_kernel_writes_it(stack: Stack) -> None:
    path = os.fsencode(stack.add({"f": File()})) + b"/f"
    markers = Markers(stack.prefix.encode() + b".overlay.")
    markers.set_link_count(path, 0, to_upper=False)
    assert os.getxattr(path, stack.marker("nlink")) == b"L+0"
    markers.set_link_count(path, -3, to_upper=True)
    assert os.getxattr(path, stack.marker("nlink")) == b"U-3"


def test_markers_are_not_shown_and_a_programs_attribute_of_that_name_is_kept(stack: Stack) -> None:
    stack.add({"f": File(b"x"), "d": Dir()})
    name = stack.marker("opaque")
    with stack.open() as view:
        view.write("f", b"y")
        assert view.xattrs("f") == {}
        view.setxattr("d", name, b"y")  # as by an overlay on the view
        assert view.xattrs("d") == {name: b"y"}
        view.mkdir("d/sub")
        view.removexattr("d", name)
        assert view.xattrs("d") == {}


def test_only_a_device_with_number_zero_is_a_whiteout_device(stack: Stack) -> None:
    lower = stack.add({"f": File()})
    os.mknod(os.path.join(lower, "w"), stat.S_IFCHR, 0)
    assert is_whiteout_device(os.lstat(os.path.join(lower, "w")))
    assert not is_whiteout_device(os.lstat(os.path.join(lower, "f")))
    assert not is_whiteout_device(os.stat("/dev/null"))
