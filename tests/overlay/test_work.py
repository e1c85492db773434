"""The work directory: unfinished files are not visible in the view, and the next mount removes them."""

from __future__ import annotations

import errno
import os

from ..posix import syscalls
from ..posix.table import Dir, File
from .stack import Stack
from .view import refused


def test_the_next_mount_clears_the_work_directory_of_a_crash(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with stack.open():
        pass
    left = os.path.join(stack.work, "work", "#1")
    os.makedirs(os.path.join(left, "deep", "er"))
    os.symlink(stack.lowers[0], os.path.join(left, "link"))
    os.chmod(os.path.join(left, "deep"), 0o500)
    with open(os.path.join(stack.work, "work", "#2"), "w") as file:
        file.write("half")
    with stack.open() as view:
        assert os.listdir(os.path.join(stack.work, "work")) == []
        assert view.read("f") == b"x"
    assert os.path.exists(os.path.join(stack.lowers[0], "f"))


def test_no_operation_leaves_unfinished_files(stack: Stack) -> None:
    stack.add({"f": File(b"x"), "d/g": File(), "e": Dir()})
    with stack.open() as view:
        view.write("f", b"y")
        view.unlink("d/g")
        view.rmdir("e")
        view.mkdir("e")
        view.mkdir("n")
        view.rename("n", "d/g")
        view.rename("f", "moved")
        view.rmdir("e")
        left = os.listdir(os.path.join(stack.work, "work"))
        assert len(left) <= 1  # the spare whiteout


def test_the_index_survives_the_mount_that_made_it(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with stack.open():
        pass
    assert sorted(os.listdir(stack.work)) == ["index", "work"]


def test_a_work_directory_on_another_mount_is_refused(stack: Stack) -> None:
    stack.add({})
    os.makedirs(stack.upper)
    syscalls.mount(b"other", os.fsencode(stack.lowers[0]), b"tmpfs", 0)
    stack.work = stack.lowers[0]
    with refused(errno.EXDEV), stack.bare():
        pass
    syscalls.umount2(os.fsencode(stack.lowers[0]), syscalls.MNT_DETACH)
