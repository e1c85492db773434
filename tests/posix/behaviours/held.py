"""Every operation on an open file after every event that can happen to the file.

`open_files` tests what is particular to each; this module tests all combinations.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable

from ..files import opened, read_file, write_file
from ..processes import run_in_child
from ..refusals import refused
from ..table import Dir, File, Instead, Layer, behaviour

PROGRAM = b"#!/bin/true\n"
AFTER = b"#!/bin/sh\nexit 7\n"

STALE = (
    "a descriptor opened for reading before copy-up maps the lower file, and on older kernels reads it "
    "(overlayfs.rst, non-standard behavior)"
)
NAMELESS = "the kernel has no path in the upper for a lower file without a name"


def _is_read(fd: int, content: bytes) -> None:
    assert os.pread(fd, 99, 0) == content
    status = os.fstat(fd)
    assert status.st_size == len(content)
    assert status.st_nlink == os.stat(f"/proc/self/fd/{fd}").st_nlink
    os.lseek(fd, 0, os.SEEK_SET)
    assert os.read(fd, 3) == content[:3]
    assert os.lseek(fd, -3, os.SEEK_END) == len(content) - 3
    os.fsync(fd)


def _shows_in_mappings(fd: int, content: bytes) -> None:
    for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
        with mmap.mmap(fd, 0, flags, mmap.PROT_READ) as memory:
            assert memory[:] == content
    with mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        memory[:1] = b"!"
    assert os.pread(fd, 99, 0) == content


def _takes_metadata(fd: int) -> None:
    inode = os.fstat(fd).st_ino
    os.fchmod(fd, 0o711)
    os.fchown(fd, os.geteuid(), os.getegid())
    os.utime(fd, ns=(10**18, 10**18 + 1))
    os.setxattr(fd, "user.held", b"1")
    status = os.fstat(fd)
    assert status.st_mode & 0o7777 == 0o711
    assert status.st_mtime_ns == 10**18 + 1
    assert status.st_ino == inode
    assert os.listxattr(fd) == ["user.held"]
    assert os.getxattr(fd, "user.held") == b"1"
    os.removexattr(fd, "user.held")
    with refused(errno.ENODATA):
        os.getxattr(fd, "user.held")


def _is_locked(fd: int) -> None:
    def other() -> None:
        with opened(f"/proc/self/fd/{fd}", os.O_RDONLY) as again, refused(errno.EWOULDBLOCK):
            fcntl.flock(again, fcntl.LOCK_SH | fcntl.LOCK_NB)

    fcntl.flock(fd, fcntl.LOCK_EX)
    run_in_child(other)


def _is_locked_by_range(fd: int) -> None:
    def other() -> None:
        with refused(errno.EACCES, errno.EAGAIN):
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 3)
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 6)

    fcntl.lockf(fd, fcntl.LOCK_EX, 3, 3)
    run_in_child(other)


def _is_run(fd: int, status: int) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os.set_inheritable(fd, True)
            os.execv(f"/proc/self/fd/{fd}", ["tool"])
        finally:
            os._exit(100)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status


def _is_written(fd: int) -> None:
    os.ftruncate(fd, 4)
    os.pwrite(fd, b"56", 4)
    assert os.pread(fd, 99, 0) == b"#!/b56"
    with mmap.mmap(fd, 0) as memory:
        memory[:2] = b"12"
        memory.flush()
    assert os.pread(fd, 99, 0) == b"12/b56"
    os.ftruncate(fd, 8)
    os.fdatasync(fd)
    assert os.fstat(fd).st_size == 8
    with opened(f"/proc/self/fd/{fd}", os.O_RDONLY) as again:
        assert os.read(again, 99) == b"12/b56\0\0"


def _do_all_to_a_reader(happens: Callable[[], object], content: bytes, status: int) -> None:
    fd = os.open("f", os.O_RDONLY)
    assert os.read(fd, 99) == PROGRAM
    happens()
    _is_read(fd, content)
    _shows_in_mappings(fd, content)
    _is_run(fd, status)
    _is_locked(fd)
    _takes_metadata(fd)
    _is_read(fd, content)
    with refused(errno.EBADF):
        os.write(fd, b"x")
    with refused(errno.EINVAL):
        os.ftruncate(fd, 0)


def _do_all_to_a_writer(happens: Callable[[], object]) -> None:
    fd = os.open("f", os.O_RDWR)
    happens()
    _is_read(fd, PROGRAM)
    _shows_in_mappings(fd, PROGRAM)
    _is_locked(fd)
    _is_locked_by_range(fd)
    _takes_metadata(fd)
    _is_written(fd)


def _goes_on_with_either() -> None:
    with opened("f", os.O_RDONLY) as fd:
        write_file("f", AFTER)
        assert os.pread(fd, 99, 0) in (PROGRAM, AFTER)
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
            assert memory[: len(PROGRAM)] in (PROGRAM, AFTER[: len(PROGRAM)])
    assert read_file("f") == AFTER


def _metadata_stay_as_they_are(happens: Callable[[], object]) -> None:
    with opened("f", os.O_RDONLY) as fd:
        happens()
        _is_read(fd, PROGRAM)
        _shows_in_mappings(fd, PROGRAM)
        _is_run(fd, 0)
        _is_locked(fd)
        with refused(errno.EEXIST):
            os.fchmod(fd, 0o711)


LOWER: Layer = {"f": File(PROGRAM, mode=0o755), "other": File(AFTER, mode=0o755), "d": Dir()}


@behaviour(lower=LOWER, differs={"kernel": Instead(STALE, _goes_on_with_either)})
def check_a_reader_goes_on_after_its_file_was_changed() -> None:
    _do_all_to_a_reader(lambda: write_file("f", AFTER), AFTER, 7)
    assert read_file("f") == AFTER


@behaviour(lower=LOWER)
def check_a_reader_goes_on_after_the_mode_of_its_file_was_changed() -> None:
    _do_all_to_a_reader(lambda: os.chmod("f", 0o700), PROGRAM, 0)
    assert os.stat("f").st_mode & 0o777 == 0o711


@behaviour(lower=LOWER)
def check_a_reader_goes_on_after_its_file_was_renamed() -> None:
    _do_all_to_a_reader(lambda: os.rename("f", "d/g"), PROGRAM, 0)
    assert os.stat("d/g").st_mode & 0o777 == 0o711


@behaviour(
    lower=LOWER,
    differs={
        "kernel": Instead(
            NAMELESS, lambda: _metadata_stay_as_they_are(lambda: os.rename("other", "f"))
        )
    },
)
def check_a_reader_goes_on_after_its_file_was_replaced() -> None:
    _do_all_to_a_reader(lambda: os.rename("other", "f"), PROGRAM, 0)
    assert read_file("f") == AFTER
    assert os.stat("f").st_mode & 0o777 == 0o755


@behaviour(
    lower=LOWER,
    differs={
        "kernel": Instead(NAMELESS, lambda: _metadata_stay_as_they_are(lambda: os.unlink("f")))
    },
)
def check_a_reader_goes_on_after_its_file_was_unlinked() -> None:
    _do_all_to_a_reader(lambda: os.unlink("f"), PROGRAM, 0)
    assert not os.path.lexists("f")


@behaviour(
    lower=LOWER,
    differs={
        "kernel": Instead(NAMELESS, lambda: _metadata_stay_as_they_are(lambda: os.unlink("f")))
    },
)
def check_an_unlinked_file_is_written_to_after_its_attributes_were_changed() -> None:
    fd = os.open("f", os.O_RDONLY)
    os.unlink("f")
    _takes_metadata(fd)
    _is_read(fd, PROGRAM)
    _is_run(fd, 0)
    os.setxattr(fd, "user.held", b"1")
    with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as writer:
        assert os.fstat(writer).st_mtime_ns == 10**18 + 1
        _is_written(writer)
        _is_locked_by_range(writer)
    _is_read(fd, b"12/b56\0\0")
    status = os.fstat(fd)
    assert (status.st_mode & 0o7777, status.st_nlink) == (0o711, 0)
    assert os.getxattr(fd, "user.held") == b"1"


@behaviour(lower=LOWER)
def check_a_writer_goes_on_after_the_mode_of_its_file_was_changed() -> None:
    _do_all_to_a_writer(lambda: os.chmod("f", 0o700))
    assert read_file("f") == b"12/b56\0\0"


@behaviour(lower=LOWER)
def check_a_writer_goes_on_after_its_file_was_renamed() -> None:
    _do_all_to_a_writer(lambda: os.rename("f", "d/g"))
    assert read_file("d/g") == b"12/b56\0\0"


@behaviour(lower=LOWER)
def check_a_writer_goes_on_after_its_file_was_replaced() -> None:
    _do_all_to_a_writer(lambda: os.rename("other", "f"))
    assert read_file("f") == AFTER


@behaviour(lower=LOWER)
def check_a_writer_goes_on_after_its_file_was_unlinked() -> None:
    _do_all_to_a_writer(lambda: os.unlink("f"))
    assert not os.path.lexists("f")


@behaviour(lower=LOWER)
def check_a_writer_goes_on_after_its_directory_was_renamed() -> None:
    os.mkdir("e")
    os.rename("f", "e/f")
    os.chdir("e")
    _do_all_to_a_writer(lambda: os.rename("../e", "../d"))
    assert read_file("../d/f") == b"12/b56\0\0"
