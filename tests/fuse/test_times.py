"""The kernel owns a file's times while it has it in its cache: they must not be others once it has forgotten them."""

from __future__ import annotations

import os
import shutil

import pytest

from ..overlay.stack import Stack
from ..posix.acts import let_the_clock_go_on
from ..posix.table import File
from .mounted import mounted


@pytest.mark.parametrize("name", ["new", "lower"])
def test_a_file_was_changed_when_it_was_written_and_not_when_it_was_closed(
    stack: Stack, name: str
) -> None:
    stack.add({"lower": File(b"x")})
    with mounted(stack) as mount:
        fd = os.open(mount.path(name), os.O_RDWR | os.O_CREAT)
        os.write(fd, b"y")
        written = os.fstat(fd).st_mtime_ns
        let_the_clock_go_on()
        os.close(fd)
        assert os.stat(mount.path(name)).st_mtime_ns == written
    assert os.stat(os.path.join(stack.upper, name)).st_mtime_ns == written


def test_a_time_that_was_set_stays_whatever_was_written_before(stack: Stack) -> None:
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
        let_the_clock_go_on()
        os.write(two, b"2")
        last = os.fstat(one).st_mtime_ns
        let_the_clock_go_on()
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
            let_the_clock_go_on()
            os.truncate(mount.path("f"), 10)
        os.close(fd)
        seen = os.stat(mount.path("f")).st_mtime_ns
    assert os.stat(os.path.join(stack.upper, "f")).st_mtime_ns == seen


def test_a_time_beyond_2262_is_shown_and_keeps_nobody_from_removing(stack: Stack) -> None:
    far = 10**10 + 5  # seconds: the year 2286
    stack.add({"d/f": File(b"x")})
    os.utime(os.path.join(stack.lowers[0], "d", "f"), (far, far))
    for _ in range(2):
        with mounted(stack) as mount:
            assert os.listdir(mount.path("d")) == ["f"]
            assert os.stat(mount.path("d/f")).st_mtime == far
            os.utime(mount.path("d/f"), (far, far))
    with mounted(stack) as mount:
        shutil.rmtree(mount.path("d"))
