"""Copy-up copies no data that no program can read afterwards."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable

import pytest

from overlaykit.fuse.spec import MountOptions

from ..overlay.stack import Stack
from ..posix.files import opened
from ..posix.refusals import refused
from ..posix.table import File, Link
from .mounted import Mounted, mounted

_SIZE = 8 << 20
_LITTLE = 64 << 10
"""Bytes for replies, overlay markers and logs."""


def _written(mount: Mounted) -> int:
    """Bytes that the daemon has written by write(2) and copy_file_range(2), without reflinks (proc_pid_io(5))."""
    with open(f"/proc/{mount.process.pid}/io", "rb") as file:
        fields = dict(line.split(b": ") for line in file.read().splitlines())
    return int(fields[b"wchar"])


def _remove(path: str) -> None:
    os.unlink(f"{path}/d/f")


def _remove_tree(path: str) -> None:
    shutil.rmtree(f"{path}/d")


def _rename_over(path: str) -> None:
    os.rename(f"{path}/small", f"{path}/d/f")


def _remove_while_it_is_open(path: str) -> None:
    with open(f"{path}/d/f", "rb") as file:
        os.unlink(f"{path}/d/f")
        assert file.read(1) == b"x"


def _truncate(path: str) -> None:
    os.truncate(f"{path}/d/f", 0)


def _truncate_and_write(path: str) -> None:
    with open(f"{path}/d/f", "wb") as file:
        file.write(b"y")


def _open_for_writing(path: str) -> None:
    with open(f"{path}/d/f", "r+b") as file:
        assert file.read(1) == b"x"


def _ask_for_a_name_that_is_none(path: str) -> None:
    for call in (os.link, os.rename):
        with refused(errno.EINVAL):
            call(f"{path}/d/f", f"{path}/d/.wh.f")


def _ask_for_what_it_has(path: str) -> None:
    st = os.stat(f"{path}/d/f")
    os.chmod(f"{path}/d/f", st.st_mode & 0o7777)
    os.chown(f"{path}/d/f", st.st_uid, st.st_gid)
    os.chown(f"{path}/d/f", -1, -1)
    os.utime(f"{path}/d/f", ns=(st.st_atime_ns, st.st_mtime_ns))
    os.truncate(f"{path}/d/f", _SIZE)


def _change_what_has_no_name(path: str) -> None:
    with open(f"{path}/d/f", "rb") as file:
        fd = file.fileno()
        inode, owners = os.fstat(fd).st_ino, (os.geteuid(), os.getegid())
        os.unlink(f"{path}/d/f")
        link = f"/proc/self/fd/{fd}"
        os.fchmod(fd, 0o600)
        os.chmod(link, 0o640)
        os.fchown(fd, *owners)
        os.chown(link, *owners)
        os.utime(fd, ns=(5, 6))
        os.utime(link, ns=(7, 8))
        os.setxattr(fd, "user.k", b"v")
        os.setxattr(link, "user.l", b"v")
        os.removexattr(fd, "user.l")
        st = os.fstat(fd)
        assert (st.st_mode & 0o7777, st.st_mtime_ns, st.st_ino, st.st_size, st.st_nlink) == (
            0o640,
            8,
            inode,
            _SIZE,
            0,
        )
        assert os.listxattr(link) == ["user.k"]
        assert os.pread(fd, 3, _SIZE - 2) == b"xx"
        with open(link, "rb") as again:
            assert again.read(2) == b"xx"
        with refused(errno.ENOENT):  # no name comes back
            os.link(link, f"{path}/d/new", src_dir_fd=fd)  # which follows it


@pytest.mark.parametrize(
    "act",
    [
        _remove,
        _remove_tree,
        _rename_over,
        _remove_while_it_is_open,
        _truncate,
        _truncate_and_write,
        _open_for_writing,
        _ask_for_a_name_that_is_none,
        _ask_for_what_it_has,
        _change_what_has_no_name,
    ],
)
def test_data_that_no_program_can_read_is_not_copied(
    stack: Stack, act: Callable[[str], None]
) -> None:
    stack.add({"d/f": File(b"x" * _SIZE), "d/g": File(b"x" * _SIZE), "small": File(b"s")})
    with mounted(stack) as mount:
        before = _written(mount)
        act(mount.target)
        mount.forget()
        assert _written(mount) - before < _LITTLE


def _link_and_remove(path: str) -> None:
    os.link(f"{path}/d/f", f"{path}/d/new")
    os.unlink(f"{path}/d/f")
    os.unlink(f"{path}/d/new")


def _change_and_remove(path: str) -> None:
    os.chmod(f"{path}/d/f", 0o600)
    os.unlink(f"{path}/d/f")


def _rename_and_remove(path: str) -> None:
    os.rename(f"{path}/d/f", f"{path}/new")
    os.unlink(f"{path}/new")


@pytest.mark.parametrize("act", [_link_and_remove, _change_and_remove, _rename_and_remove])
def test_a_change_that_needs_the_data_copies_them(stack: Stack, act: Callable[[str], None]) -> None:
    stack.add({"d/f": File(b"x" * _SIZE)})
    with mounted(stack) as mount:
        before = _written(mount)
        act(mount.target)
        mount.forget()
        assert _written(mount) - before < _SIZE + _LITTLE


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_what_has_no_name_keeps_its_changes_when_it_is_written_to(stack: Stack, flags: int) -> None:
    lower = stack.add({"f": File(b"x" * _SIZE, mode=0o644, xattrs={"user.old": b"o"})})
    with mounted(stack) as mount, opened(mount.path("f"), flags) as fd:
        os.unlink(mount.path("f"))
        inode = os.fstat(fd).st_ino
        os.removexattr(fd, "user.old")
        os.setxattr(fd, "user.new", b"n")
        os.fchmod(fd, 0o600)
        os.utime(fd, ns=(7, 8))
        before = _written(mount)
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as writer:
            mount.forget()
            assert os.fstat(fd).st_mtime_ns == 8
            assert _written(mount) - before < _LITTLE
            os.pwrite(writer, b"yy", _SIZE - 1)
            os.fsync(writer)
            mount.forget()
            assert os.pread(fd, 3, _SIZE - 2) == b"xyy"
            os.ftruncate(writer, 3)
            mount.forget()
            assert os.pread(writer, 9, 0) == os.pread(fd, 9, 0) == b"xxx"
        assert _written(mount) - before < _SIZE + _LITTLE
        st = os.fstat(fd)
        assert (st.st_ino, st.st_size, st.st_mode & 0o7777) == (inode, 3, 0o600)
        assert os.listxattr(fd) == ["user.new"]
    assert os.listdir(stack.upper) == ["f"]  # the whiteout
    assert os.listxattr(os.path.join(lower, "f")) == ["user.old"]


def test_what_has_no_name_can_be_emptied_after_a_change(stack: Stack) -> None:
    stack.add({"f": File(b"x" * _SIZE)})
    with mounted(stack) as mount, opened(mount.path("f"), os.O_RDONLY) as fd:
        os.unlink(mount.path("f"))
        before = _written(mount)
        os.fchmod(fd, 0o600)
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_TRUNC) as writer:
            assert os.fstat(writer).st_size == 0
            os.write(writer, b"new")
        mount.forget()
        assert os.pread(fd, 9, 0) == b"new"
        assert _written(mount) - before < _LITTLE


def test_another_name_of_a_file_is_found_after_the_first_was_removed_and_changed(
    stack: Stack,
) -> None:
    """Without an index these are two files after the change."""
    stack.add({"f": File(b"x" * _SIZE, mode=0o644), "g": Link("f")})
    options = MountOptions(userxattr=stack.unprivileged, index=False)
    with mounted(stack, options=options) as mount, opened(mount.path("f"), os.O_RDONLY) as fd:
        os.unlink(mount.path("f"))
        os.fchmod(fd, 0o600)
        assert os.stat(mount.path("g")).st_mode & 0o7777 == 0o644
        with open(mount.path("g"), "r+b") as file:
            file.write(b"y")
        mount.forget()
        assert os.pread(fd, 2, 0) == b"xx"
        assert os.fstat(fd).st_mode & 0o7777 == 0o600


def test_a_name_is_removed_without_a_copy_if_no_index_can_keep_the_file(stack: Stack) -> None:
    """A lower on FUSE gives its files no lasting file handle."""
    below = Stack(os.path.join(stack.directory, "below"), unprivileged=stack.unprivileged)
    os.mkdir(below.directory)
    below.add({"f": File(b"x" * _SIZE), "g": Link("f")})
    stack.lowers.append(os.path.join(below.directory, "merged"))
    with mounted(below, writable=False), mounted(stack) as mount:
        before = _written(mount)
        os.unlink(mount.path("f"))
        mount.forget()
        assert _written(mount) - before < _LITTLE
        with open(mount.path("g"), "rb") as file:
            assert file.read() == b"x" * _SIZE


def test_the_names_of_a_file_are_counted_by_one_copy(stack: Stack) -> None:
    """As the kernel does: the index holds the data."""
    stack.add({"f": File(b"x" * _SIZE), "g": Link("f"), "h": Link("f"), "small": File(b"s")})
    with mounted(stack) as mount:
        before = _written(mount)
        os.unlink(mount.path("f"))
        os.rename(mount.path("small"), mount.path("g"))
        assert os.stat(mount.path("h")).st_nlink == 1
        os.unlink(mount.path("h"))
        mount.forget()
        assert _written(mount) - before < _SIZE + _LITTLE
