"""What is copied of the files of a lower: nothing for what nobody can see afterwards."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable

import pytest

from ..overlay.stack import Stack
from ..posix.acts import refused
from ..posix.table import File, Link
from .mounted import Mounted, mounted

_SIZE = 8 << 20
_LITTLE = 64 << 10
"""Bytes that answers, marks and logs may take."""


def _written(mount: Mounted) -> int:
    """Bytes that the daemon has written so far: write(2) and copy_file_range(2), reflinks not (proc_pid_io(5))."""
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
    ],
)
def test_no_byte_is_copied_that_nobody_could_read(stack: Stack, act: Callable[[str], None]) -> None:
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
def test_what_needs_a_copy_makes_one(stack: Stack, act: Callable[[str], None]) -> None:
    stack.add({"d/f": File(b"x" * _SIZE)})
    with mounted(stack) as mount:
        before = _written(mount)
        act(mount.target)
        mount.forget()
        assert _written(mount) - before < _SIZE + _LITTLE


def test_a_name_is_removed_without_a_copy_where_no_index_could_keep_it(stack: Stack) -> None:
    """Of a lower on FUSE, which gives its files no handle that lasts."""
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
    """As the kernel does: in the index, where a file has its data."""
    stack.add({"f": File(b"x" * _SIZE), "g": Link("f"), "h": Link("f"), "small": File(b"s")})
    with mounted(stack) as mount:
        before = _written(mount)
        os.unlink(mount.path("f"))
        os.rename(mount.path("small"), mount.path("g"))
        assert os.stat(mount.path("h")).st_nlink == 1
        os.unlink(mount.path("h"))
        mount.forget()
        assert _written(mount) - before < _SIZE + _LITTLE
