"""A file's times are the kernel's while it caches the file, and stay the same after it has forgotten it."""

from __future__ import annotations

import mmap
import os
import shutil

import pytest

from ..overlay.stack import Stack
from ..posix import syscalls
from ..posix.files import wait_for_clock_tick, write_file
from ..posix.table import File
from .mounted import NO_OPEN, mounted


@pytest.mark.parametrize("name", ["new", "lower"])
def test_a_file_was_changed_when_it_was_written_and_not_when_it_was_closed(
    stack: Stack, name: str
) -> None:
    stack.add({"lower": File(b"x")})
    with mounted(stack) as mount:
        fd = os.open(mount.path(name), os.O_RDWR | os.O_CREAT)
        os.write(fd, b"y")
        written = os.fstat(fd).st_mtime_ns
        wait_for_clock_tick()
        os.close(fd)
        assert os.stat(mount.path(name)).st_mtime_ns == written
    assert os.stat(os.path.join(stack.upper, name)).st_mtime_ns == written


def test_a_file_was_changed_when_it_was_written_also_if_the_kernel_writes_it_back_itself(
    stack: Stack,
) -> None:
    """syncfs(2) lets the kernel's threads write it back, whose uid an unprivileged mount does not map."""
    lower = stack.add({"f": File(b"x")})
    with mounted(stack) as mount:
        fd = os.open(mount.path("f"), os.O_RDWR)
        wait_for_clock_tick()
        os.write(fd, b"y")
        written = os.fstat(fd).st_mtime_ns
        syscalls.syncfs(fd)
        os.close(fd)
        assert os.stat(mount.path("f")).st_mtime_ns == written
    assert written > os.stat(os.path.join(lower, "f")).st_mtime_ns
    assert os.stat(os.path.join(stack.upper, "f")).st_mtime_ns == written


def _write(path: str, fd: int) -> None:
    os.write(fd, b"y")


def _write_and_sync(path: str, fd: int) -> None:
    os.write(fd, b"y")
    os.fsync(fd)


def _write_through_a_mapping(path: str, fd: int) -> None:
    with mmap.mmap(fd, 0) as mapping:
        mapping[0] = ord("y")


def _lengthen(path: str, fd: int) -> None:
    os.ftruncate(fd, 10_000)


def _empty(path: str, fd: int) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def _set_times_after_a_write(path: str, fd: int) -> None:
    os.write(fd, b"y")
    os.utime(path, ns=(1_000_000_001, 2_000_000_002))


def _change_mode(path: str, fd: int) -> None:
    os.chmod(path, 0o600)


def _change_mode_to_what_it_was(path: str, fd: int) -> None:
    os.chmod(path, os.fstat(fd).st_mode & 0o7777)


def _change_no_owner(path: str, fd: int) -> None:
    os.chown(path, -1, -1)


def _set_attribute(path: str, fd: int) -> None:
    os.setxattr(path, "user.k", b"v")


def _rename(path: str, fd: int) -> None:
    os.rename(path, path + ".new")
    os.rename(path + ".new", path)


def _link(path: str, fd: int) -> None:
    os.link(path, path + ".new")


def _link_and_unlink(path: str, fd: int) -> None:
    os.link(path, path + ".new")
    os.unlink(path + ".new")


def _nothing(path: str, fd: int) -> None:
    pass


_CHANGES = (
    _write,
    _write_and_sync,
    _write_through_a_mapping,
    _lengthen,
    _empty,
    _set_times_after_a_write,
    _change_mode,
    _change_mode_to_what_it_was,
    _change_no_owner,
    _set_attribute,
    _rename,
    _link,
    _link_and_unlink,
    _nothing,
)


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_a_time_moves_with_a_change_and_not_by_itself(stack: Stack, where: str) -> None:
    """Times stay while the file is open, when it is closed, and when the kernel has forgotten it."""
    names = [act.__name__ for act in _CHANGES]
    stack.add({name: File(b"x" * 5000) for name in names} if where == "lower" else {})
    with mounted(stack) as mount:
        if where == "upper":
            for name in names:
                write_file(mount.path(name), b"x" * 5000)
            mount.forget()
        before = {name: os.stat(mount.path(name)) for name in names}
        wait_for_clock_tick()
        descriptors = []
        for act in _CHANGES:
            path = mount.path(act.__name__)
            descriptors.append(os.open(path, os.O_RDWR))
            act(path, descriptors[-1])
        changed = {name: os.stat(mount.path(name)) for name in names}
        moved = [n for n in names if changed[n].st_ctime_ns > before[n].st_ctime_ns]
        assert moved == names[:-1]
        for step in ("wait", "close", "forget"):
            wait_for_clock_tick()
            if step == "close":
                for fd in descriptors:
                    os.close(fd)
            elif step == "forget":
                mount.forget()
                if NO_OPEN and where == "lower":  # nothing has copied these
                    for act in (_change_mode_to_what_it_was, _change_no_owner):
                        names.remove(act.__name__)
            for name in names:
                assert _times(os.stat(mount.path(name))) == _times(changed[name]), (step, name)


def _times(st: os.stat_result) -> tuple[int, int, int]:
    return st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns


def test_a_time_that_was_set_stays_after_earlier_writes(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with mounted(stack) as mount:
        with open(mount.path("f"), "r+b") as file:
            file.write(b"y")
            file.flush()
            os.utime(file.fileno(), ns=(1_000_000_001, 2_000_000_002))
        os.chmod(mount.path("f"), 0o600)
        assert os.stat(mount.path("f")).st_mtime_ns == 2_000_000_002
    st = os.stat(os.path.join(stack.upper, "f"))
    assert (st.st_atime_ns, st.st_mtime_ns) == (1_000_000_001, 2_000_000_002)


def test_writing_through_one_handle_keeps_the_time_of_another_ones_later_write(
    stack: Stack,
) -> None:
    stack.add({})
    with mounted(stack) as mount:
        one = os.open(mount.path("f"), os.O_RDWR | os.O_CREAT)
        two = os.open(mount.path("f"), os.O_RDWR)
        os.write(one, b"1")
        wait_for_clock_tick()
        os.write(two, b"2")
        last = os.fstat(one).st_mtime_ns
        wait_for_clock_tick()
        os.close(one)
        os.close(two)
        assert os.stat(mount.path("f")).st_mtime_ns == last
    assert os.stat(os.path.join(stack.upper, "f")).st_mtime_ns == last


def test_truncating_to_the_size_it_has_changes_no_time(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount:
        fd = os.open(mount.path("f"), os.O_RDWR | os.O_CREAT)
        os.write(fd, b"0123456789")
        for _ in range(2):
            wait_for_clock_tick()
            os.truncate(mount.path("f"), 10)
        os.close(fd)
        seen = os.stat(mount.path("f")).st_mtime_ns
    assert os.stat(os.path.join(stack.upper, "f")).st_mtime_ns == seen


def test_a_file_with_a_time_beyond_2262_is_shown_and_can_be_removed(stack: Stack) -> None:
    # Seconds: the year 2286.
    far = 10**10 + 5
    stack.add({"d/f": File(b"x")})
    os.utime(os.path.join(stack.lowers[0], "d", "f"), (far, far))
    for _ in range(2):
        with mounted(stack) as mount:
            assert os.listdir(mount.path("d")) == ["f"]
            assert os.stat(mount.path("d/f")).st_mtime == far
            os.utime(mount.path("d/f"), (far, far))
    with mounted(stack) as mount:
        shutil.rmtree(mount.path("d"))
