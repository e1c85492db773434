"""An open file outlives its layer: after a copy-up every handle sees the new bytes, and no lower ever changes."""

from __future__ import annotations

import errno
import os
import time

import pytest

from overlaykit.overlay.attributes import Changes
from overlaykit.overlay.stack import MergeOptions

from ..posix import syscalls
from ..posix.files import wait_for_clock_tick
from ..posix.layers import write_layer
from ..posix.sandbox import ORDINARY_UID
from ..posix.table import File
from .inside import as_root
from .stack import Stack
from .view import refused


def test_a_reader_sees_writes_after_its_open(stack: Stack) -> None:
    lower = stack.add({"f": File(b"old bytes")})
    with stack.open() as view, view.opened("f") as reader:
        assert view.filesystem.files.read(reader, 0, 99) == b"old bytes"
        with view.opened("f", os.O_RDWR) as writer:
            view.filesystem.files.write(writer, 0, b"new")
            assert view.filesystem.files.read(reader, 0, 99) == b"new bytes"
        view.change("f", Changes(size=3))
        assert view.filesystem.files.read(reader, 0, 99) == b"new"
    with open(os.path.join(lower, "f"), "rb") as file:
        assert file.read() == b"old bytes"


def test_a_readers_handle_never_writes_into_a_lower(stack: Stack) -> None:
    lower = stack.add({"f": File(b"old")})
    with stack.open() as view, view.opened("f") as reader:
        with refused(errno.EBADF):
            view.filesystem.files.write(reader, 0, b"new")
        assert view.read("f") == b"old"
    with open(os.path.join(lower, "f"), "rb") as file:
        assert file.read() == b"old"


def test_every_name_of_an_open_hard_link_is_the_same_open_file(stack: Stack) -> None:
    stack.add({"f": File(b"old")})
    with stack.open() as view:
        view.link("f", "g")
        with view.opened("f") as one, view.opened("g", os.O_RDWR) as two:
            view.filesystem.files.write(two, 0, b"new")
            assert view.filesystem.files.read(one, 0, 99) == b"new"


def test_a_writers_descriptor_reads_too_and_does_not_append_by_itself(stack: Stack) -> None:
    """The kernel's writeback cache reads through write-only descriptors, and computes the offset of an append."""
    stack.add({"f": File(b"0123456789")})
    with stack.open() as view, view.opened("f", os.O_WRONLY | os.O_APPEND) as handle:
        assert view.filesystem.files.read(handle, 0, 4) == b"0123"
        view.filesystem.files.write(handle, 2, b"xx")
        assert view.filesystem.files.read(handle, 0, 99) == b"01xx456789"


def test_all_handles_see_a_truncation_on_open(stack: Stack) -> None:
    stack.add({"f": File(b"old")})
    with (
        stack.open() as view,
        view.opened("f") as reader,
        view.opened("f", os.O_RDONLY | os.O_TRUNC),
    ):
        assert view.filesystem.files.read(reader, 0, 99) == b""


def test_attributes_of_an_open_file_are_those_of_its_bytes(stack: Stack) -> None:
    stack.add({"f": File(b"old")})
    with stack.open() as view, view.opened("f", os.O_RDWR) as handle:
        view.filesystem.files.write(handle, 0, b"longer than before")
        assert view.stat("f").stat.st_size == 18


def test_reading_a_lower_does_not_change_its_access_time(stack: Stack) -> None:
    lower = stack.add({"f": File(b"x", mtime_ns=2_000_000_000)})
    before = os.stat(os.path.join(lower, "f")).st_atime_ns
    with stack.open(as_kernel=False) as view:  # which does
        assert view.read("f") == b"x"
    assert os.stat(os.path.join(lower, "f")).st_atime_ns == before


def test_reading_past_the_end_gives_nothing(stack: Stack) -> None:
    stack.add({"f": File(b"abc")})
    with stack.open() as view, view.opened("f") as handle:
        assert view.filesystem.files.read(handle, 3, 10) == b""
        assert view.filesystem.files.read(handle, 1, 10) == b"bc"


def test_a_hundred_handles_of_one_file_take_one_descriptor(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with stack.open() as view:
        node = view.file("f")
        handles = [view.filesystem.files.open(node, os.O_RDONLY) for _ in range(100)]
        assert view.filesystem.counts()["open_files"] == 1
        for handle in handles:
            view.filesystem.files.release(handle)


def test_an_open_file_keeps_its_node_when_it_is_forgotten(stack: Stack) -> None:
    stack.add({"d/f": File(b"x")})
    with stack.open() as view, view.opened("d/f") as handle:
        view.forget_everything()
        assert view.filesystem.files.read(handle, 0, 9) == b"x"
        view.write("d/f", b"y")
        assert view.filesystem.files.read(handle, 0, 9) == b"y"


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
def test_without_an_upper_no_file_is_opened_for_writing(stack: Stack, flags: int) -> None:
    stack.add({"f": File(b"x")})
    stack.add({})
    with stack.open(writable=False) as view:
        with refused(errno.EROFS):
            view.filesystem.files.open(view.file("f"), flags)
        assert view.read("f") == b"x"


@as_root
def test_a_file_of_another_owner_is_read_and_written_by_the_daemon(stack: Stack) -> None:
    stack.add({"f": File(b"x", mode=0o600, uid=1234)})
    with stack.open() as view:
        assert view.read("f") == b"x"
        view.write("f", b"y")
        assert view.stat("f").uid == 1234


@as_root
def test_a_world_writable_file_of_another_owner_is_written_and_gets_the_current_time(
    stack: Stack,
) -> None:
    """The daemon may not set its times: so for an ordinary user's daemon in a directory shared with others."""
    stack.add({})
    for path in (stack.upper, stack.work):
        os.mkdir(path)
        os.chown(path, ORDINARY_UID, ORDINARY_UID)
    os.chmod(stack.directory, 0o755)
    write_layer({"f": File(b"old", mode=0o666, mtime_ns=10**18)}, stack.upper, xattr_prefix="user")
    os.setgroups([])
    os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
    os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # which opens /proc/self
    with stack.bare(options=MergeOptions(userxattr=True)) as view:
        view.write("f", b"new")
        assert view.read("f") == b"new"
        view.change("f", Changes(size=2))
        assert view.read("f") == b"ne"
        with refused(errno.EPERM):
            view.change("f", Changes(mode=0o600))
    assert os.stat(os.path.join(stack.upper, "f")).st_mtime_ns > 10**18


def test_a_written_file_does_not_get_back_a_time_of_before_it_was_opened(stack: Stack) -> None:
    """The kernel sends the time of a write, unless it loses it."""
    stack.add({"f": File(b"x", mtime_ns=2_000_000_000)})
    before = time.time_ns() - 10**8
    with stack.open() as view:
        with view.opened("f", os.O_RDWR) as handle:
            view.filesystem.files.write(handle, 0, b"y")
        assert view.stat("f").stat.st_mtime_ns > before


def test_a_late_written_back_time_does_not_undo_one_that_was_set(
    stack: Stack,
) -> None:
    stack.add({"f": File(b"x")})
    with stack.open() as view, view.opened("f", os.O_RDWR) as handle:
        view.filesystem.files.write(handle, 0, b"y")
        second = 10**9

        def change(mtime_ns: int, asked_ns: int, *, written_back: bool) -> int:
            node = view.node("f")
            view.filesystem.changing.change(
                node, Changes(mtime_ns=mtime_ns, asked_ns=asked_ns, written_back=written_back)
            )
            return view.stat("f").stat.st_mtime_ns

        assert change(5, 100 * second, written_back=False) == 5
        assert change(99, 100 * second - 1, written_back=True) == 5
        assert change(100, 100 * second + 1, written_back=True) == 100
        view.filesystem.files.write(handle, 0, b"z")
        assert change(99, 100 * second, written_back=True) != 99
        view.filesystem.files.restore_times(handle)
        assert view.stat("f").stat.st_mtime_ns == 100
        assert change(7, 50 * second, written_back=True) == 7  # the clock was set back
        assert change(8, 49 * second, written_back=False) == 8


def test_the_disks_change_time_stays_if_it_has_the_written_back_times(
    stack: Stack,
) -> None:
    """The next mount shows it."""
    stack.add({"f": File(b"x")})

    with stack.open() as view, view.opened("f", os.O_RDWR):
        view.change("f", Changes(mode=0o600))

        def changed() -> int:
            return os.stat(os.path.join(stack.upper, "f")).st_ctime_ns

        before, has = changed(), os.stat(os.path.join(stack.upper, "f")).st_mtime_ns
        wait_for_clock_tick()
        view.change("f", Changes(mtime_ns=has, asked_ns=before, written_back=True))
        assert changed() == before
        view.change("f", Changes(mtime_ns=has, asked_ns=before + 1))
        assert changed() > before
        for changes in (Changes(mtime_ns=5, asked_ns=1), Changes(mtime_ns=5)):
            before = changed()
            wait_for_clock_tick()
            view.change("f", changes)
            assert changed() > before
