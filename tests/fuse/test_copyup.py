"""Copy-ups in progress: they block no other file, happen once, and leave the file unchanged if they fail."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from overlaykit.fuse.daemon_start import DaemonProcess

from ..crash.disks import memory, put_upper_on, upper_on_a_small_disk
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix.table import File
from .inotify import names_until_now, next_name, watched
from .mounted import mounted, only_with_open

Act: TypeAlias = Callable[[], object]

LARGE = 192 << 20
DATA = 128 << 20


def _add_large_file(stack: Stack) -> str:
    """A lower with a file of 192 MiB, of which the first 128 are data, and a small one."""
    lower = stack.add({"new": File(b"new")})
    large = os.path.join(lower, "large")
    with open(large, "wb") as file:
        block = os.urandom(1 << 20)
        for _ in range(DATA >> 20):
            file.write(block)
        file.truncate(LARGE)
    return large


@contextlib.contextmanager
def stopped(process: DaemonProcess) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def _act(call: Callable[..., object], *arguments: object) -> Callable[[str], Act]:
    return lambda path: functools.partial(call, path, *arguments)


def _write_to(path: str) -> Act:
    """Opening the file first copies nothing yet."""
    fd = os.open(path, os.O_RDWR)

    def write() -> None:
        try:
            os.write(fd, b"new")
        finally:
            os.close(fd)

    return write


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(_act(os.chmod, 0o600), id="chmod"),
        pytest.param(_act(os.removexattr, "user.k"), id="removexattr"),
        pytest.param(lambda path: _act(os.rename, path + " moved")(path), id="rename"),
        pytest.param(_write_to, id="write"),
    ],
)
def test_a_large_copy_holds_up_no_other_file(stack: Stack, prepare: Callable[[str], Act]) -> None:
    """The large file lies in a mount whose daemon is stopped as soon as the copy has begun."""
    below = Stack(os.path.join(stack.directory, "below"), unprivileged=stack.unprivileged)
    os.mkdir(below.directory)
    large = _add_large_file(below)
    os.setxattr(large, "user.k", b"v")
    stack.add({"d/small": File(b"x" * 8192)})
    stack.lowers.append(os.path.join(below.directory, "merged"))
    with mounted(below, writable=False) as source, mounted(stack) as mount:
        # During a rename in a directory the kernel looks nothing up in it, so "d" must be cached.
        os.stat(mount.path("d"))
        work = os.path.join(stack.work, "work")
        act = prepare(mount.path("large"))
        with watched(work) as events:
            acting = threading.Thread(target=act)
            acting.start()
            copy = next_name(events)
            with stopped(source.process):
                with open(mount.path("d/small"), "r+b", buffering=0) as file:
                    assert file.read() == b"x" * 8192
                    file.write(b"more")
                assert os.listdir(mount.path("d")) == ["small"]
                assert copy in os.listdir(work)
            acting.join()
        (name,) = (name for name in os.listdir(mount.target) if name.startswith("large"))
        assert os.stat(mount.path(name)).st_size == LARGE


@only_with_open
def test_programs_that_change_a_large_file_at_once_change_one_copy(stack: Stack) -> None:
    _add_large_file(stack)
    with (
        mounted(stack) as mount,
        contextlib.ExitStack() as opened,
        watched(os.path.join(stack.work, "work")) as events,
    ):

        def write(file: io.FileIO, number: int) -> None:
            os.pwrite(file.fileno(), b"%d" % number, number * 1000)
            os.fsync(file.fileno())

        writers = []
        for number in range(4):
            file = opened.enter_context(open(mount.path("large"), "r+b", buffering=0))
            writers.append(threading.Thread(target=write, args=(file, number)))
        rehearsed = len(list(names_until_now(events)))
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        with open(mount.path("large"), "rb") as changed:
            for number in range(4):
                changed.seek(number * 1000)
                assert changed.read(1) == b"%d" % number
            assert os.fstat(changed.fileno()).st_blocks * 512 < DATA + (1 << 20)
        assert rehearsed == len(writers)
        assert len(list(names_until_now(events))) == 1
        assert os.listdir(os.path.join(stack.work, "work")) == []


def test_a_name_can_move_and_go_while_its_file_is_copied(stack: Stack) -> None:
    _add_large_file(stack)
    with mounted(stack) as mount:
        with watched(os.path.join(stack.work, "work")) as events:
            chmod = threading.Thread(target=os.chmod, args=(mount.path("large"), 0o600))
            chmod.start()
            next_name(events)
            os.rename(mount.path("large"), mount.path("moved"))
            chmod.join()
        assert sorted(os.listdir(mount.target)) == ["moved", "new"]
        assert os.stat(mount.path("moved")).st_mode & 0o777 == 0o600
        os.unlink(mount.path("moved"))
        assert sorted(os.listdir(mount.target)) == ["new"]


def test_a_reader_sees_the_copy_that_was_made_while_it_read(stack: Stack) -> None:
    stack.add({"f": File(b"old" * 100_000)})
    with mounted(stack) as mount, open(mount.path("f"), "rb", buffering=0) as reader:
        assert reader.read(3) == b"old"
        with open(mount.path("f"), "r+b", buffering=0) as writer:
            writer.seek(299_997)
            writer.write(b"new")
        reader.seek(299_997)
        assert reader.read(3) == b"new"
        assert os.path.samestat(os.fstat(reader.fileno()), os.stat(mount.path("f")))


@only_with_open
def test_a_full_disk_leaves_the_old_file_and_says_so(stack: Stack) -> None:
    lower = stack.add({"d/f": File(b"x" * (2 << 20)), "d/small": File(b"s")})
    with upper_on_a_small_disk(stack), mounted(stack) as mount:
        with refused(errno.ENOSPC):
            os.open(mount.path("d/f"), os.O_WRONLY)
        with open(mount.path("d/f"), "rb") as file:
            assert file.read() == b"x" * (2 << 20)
        assert os.listdir(os.path.join(stack.upper, "d")) == []
        assert os.listdir(os.path.join(stack.work, "work")) == []
        with open(mount.path("d/small"), "wb") as file:
            file.write(b"t")
    with open(os.path.join(lower, "d/f"), "rb") as file:
        assert file.read() == b"x" * (2 << 20)


def test_a_writer_gets_an_error_when_the_disk_fills_up(stack: Stack) -> None:
    stack.add({})
    with upper_on_a_small_disk(stack), mounted(stack) as mount:
        fd = os.open(mount.path("f"), os.O_WRONLY | os.O_CREAT)
        with refused(errno.ENOSPC):
            os.write(fd, b"x" * (4 << 20))
            os.fsync(fd)
        os.close(fd)
        os.unlink(mount.path("f"))
        mount.await_held(open_files=0)
        with open(mount.path("g"), "wb") as file:
            file.write(b"room again")


def test_writes_after_the_last_unlink_are_read_through_open_descriptors(
    stack: Stack,
) -> None:
    lower = stack.add({"f": File(b"old" * 700_000)})
    with mounted(stack) as mount:
        with (
            open(mount.path("f"), "rb", buffering=0) as reader,
            open(mount.path("f"), "r+b", buffering=0) as writer,
        ):
            os.unlink(mount.path("f"))
            writer.seek(2_099_997)
            writer.write(b"new")
            os.fsync(writer.fileno())
            reader.seek(2_099_994)
            assert reader.read(10) == b"oldnew"
            assert os.fstat(reader.fileno()).st_nlink == 0
        assert os.listdir(mount.target) == []
    with open(os.path.join(lower, "f"), "rb") as file:
        assert file.read() == b"old" * 700_000


def test_a_disk_that_fills_up_before_the_first_write_leaves_the_old_file_and_says_so(
    stack: Stack,
) -> None:
    size = 2 << 20
    stack.add({"f": File(b"x" * size)})
    disk = os.path.join(stack.directory, "disk")
    with memory(disk, b"size=4m") as small:
        put_upper_on(stack, disk)
        with mounted(stack) as mount:
            fd = os.open(mount.path("f"), os.O_RDWR)
            small.leave("pages", 1)
            os.write(fd, b"lost")
            with refused(errno.ENOSPC):
                os.close(fd)
            mount.forget()
            with open(mount.path("f"), "rb") as file:
                assert file.read() == b"x" * size
            assert os.listdir(os.path.join(stack.work, "work")) == []


@only_with_open
@pytest.mark.parametrize("act", [os.replace, lambda _, path: os.unlink(path)])
def test_a_file_that_is_replaced_below_before_the_first_write_is_written_to_as_it_was_opened(
    stack: Stack, act: Callable[[str, str], object]
) -> None:
    """A package upgrade does so to files of the layer `host`."""
    lower = stack.add({"f": File(b"old" * 700_000), "d/new": File(b"new" * 700_000)})
    with mounted(stack) as mount:
        with open(mount.path("f"), "r+b", buffering=0) as writer:
            act(os.path.join(lower, "d", "new"), os.path.join(lower, "f"))
            writer.write(b"OLD")
            os.fsync(writer.fileno())
        mount.forget()
        with open(mount.path("f"), "rb") as reader:
            assert reader.read() == b"OLD" + b"old" * 699_999
