"""Open files whose name is changed, removed or replaced, or that are copied up."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

from ..files import list_names, mode_of, opened, read_file, write_file
from ..processes import run_in_child
from ..refusals import refused
from ..table import File, Instead, behaviour

STALE = "until copy-up the kernel maps the lower file (overlayfs.rst, non-standard behavior)"
STALE_READS = "as with mappings; newer kernels read through the upper once there is one"


def _a_reader_may_keep_the_old_bytes() -> None:
    with opened("f", os.O_RDONLY) as reader:
        write_file("f", b"after!")
        assert os.pread(reader, 99, 0) in (b"before", b"after!")


@behaviour(
    lower={"f": File(b"before")},
    differs={"kernel": Instead(STALE_READS, _a_reader_may_keep_the_old_bytes)},
)
def check_a_reader_sees_what_is_written_after_it_opened() -> None:
    with opened("f", os.O_RDONLY) as reader:
        assert os.pread(reader, 99, 0) == b"before"
        write_file("f", b"after!")
        assert os.pread(reader, 99, 0) == b"after!"


def _a_mapping_keeps_the_old_bytes() -> None:
    with opened("f", os.O_RDONLY) as fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        write_file("f", b"after!")
        assert mapped[:] == b"before"


@behaviour(
    lower={"f": File(b"before")},
    differs={"kernel": Instead(STALE, _a_mapping_keeps_the_old_bytes)},
)
def check_a_shared_mapping_sees_what_is_written_after_it_was_made() -> None:
    with opened("f", os.O_RDONLY) as fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == b"before"
        with opened("f", os.O_WRONLY) as writer:
            os.pwrite(writer, b"after!", 0)
        assert mapped[:] == b"after!"


@behaviour(lower={"f": File(b"before")})
def check_a_private_mapping_can_be_changed_without_changing_the_file() -> None:
    with (
        opened("f", os.O_RDONLY) as fd,
        mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped,
    ):
        mapped[:] = b"CHANGE"
        assert mapped[:] == b"CHANGE"
        assert read_file("f") == b"before"


@behaviour(lower={"f": File(b"before")})
def check_a_write_through_a_shared_mapping_reaches_the_file() -> None:
    with opened("f", os.O_RDWR) as fd:
        with mmap.mmap(fd, 0) as mapped:
            mapped[:3] = b"AFT"
            mapped.flush()
        assert os.pread(fd, 99, 0) == b"AFTore"
    assert read_file("f") == b"AFTore"


@behaviour(lower={"f": File(b"before")})
def check_a_mapping_outlives_its_descriptor_and_its_name() -> None:
    fd = os.open("f", os.O_RDWR)
    with mmap.mmap(fd, 0) as mapped:
        os.close(fd)
        os.unlink("f")
        mapped[:2] = b"BE"
        assert mapped[:] == b"BEfore"
    assert list_names() == []


@behaviour(lower={"f": File(b"before")})
def check_a_mapping_needs_the_right_descriptor() -> None:
    with opened("f", os.O_RDONLY) as fd, refused(errno.EACCES):
        mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with opened("f", os.O_WRONLY) as fd, refused(errno.EACCES):
        mmap.mmap(fd, 6, mmap.MAP_SHARED, mmap.PROT_READ)


@behaviour(lower={"f": File(b"content")})
def check_an_unlinked_file_is_still_read() -> None:
    with opened("f", os.O_RDONLY) as fd:
        os.unlink("f")
        assert os.read(fd, 99) == b"content"
        assert os.fstat(fd).st_size == 7


@behaviour(lower={"f": File(b"content")})
def check_an_unlinked_file_is_still_written() -> None:
    with opened("f", os.O_RDWR) as fd:
        os.unlink("f")
        os.pwrite(fd, b"CONTENT, longer", 0)
        assert os.pread(fd, 99, 0) == b"CONTENT, longer"
        assert os.fstat(fd).st_size == 15
        os.ftruncate(fd, 3)
        assert os.pread(fd, 99, 0) == b"CON"
    assert list_names() == []


@behaviour()
def check_an_unlinked_new_file_has_no_links_left() -> None:
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:
        os.unlink("f")
        assert os.fstat(fd).st_nlink == 0


@behaviour(lower={"f": File(b"x")})
def check_an_unlinked_file_can_be_changed_by_its_descriptor() -> None:
    with opened("f", os.O_RDWR) as fd:
        os.unlink("f")
        os.fchmod(fd, 0o600)
        os.utime(fd, ns=(10**18, 10**18))
        status = os.fstat(fd)
        assert status.st_mode & 0o777 == 0o600
        assert status.st_mtime_ns == 10**18


@behaviour(lower={"f": File(b"old")})
def check_a_new_file_under_an_unlinked_name_is_another_file() -> None:
    with opened("f", os.O_RDWR) as fd:
        os.unlink("f")
        write_file("f", b"new")
        assert os.pread(fd, 9, 0) == b"old"
        os.pwrite(fd, b"OLD", 0)
        assert read_file("f") == b"new"


@behaviour(lower={"f": File(b"old"), "g": File(b"new")})
def check_a_replaced_file_is_still_read_and_written() -> None:
    with opened("f", os.O_RDWR) as fd:
        os.rename("g", "f")
        assert os.pread(fd, 9, 0) == b"old"
        os.pwrite(fd, b"OLD", 0)
        assert os.pread(fd, 9, 0) == b"OLD"
    assert read_file("f") == b"new"


@behaviour(lower={"f": File(b"old")})
def check_a_renamed_file_is_still_written() -> None:
    with opened("f", os.O_RDWR) as fd:
        os.rename("f", "g")
        os.pwrite(fd, b"new", 0)
    assert read_file("g") == b"new"
    assert list_names() == ["g"]


@behaviour(lower={"f": File(b"old")})
def check_two_writers_of_a_lower_file_write_one_file() -> None:
    with opened("f", os.O_RDWR) as one, opened("f", os.O_RDWR) as two:
        os.pwrite(one, b"1", 0)
        os.pwrite(two, b"2", 1)
        assert os.pread(one, 9, 0) == os.pread(two, 9, 0) == b"12d"


@behaviour(lower={"f": File(b"old")})
def check_fstat_follows_a_change_made_by_name() -> None:
    with opened("f", os.O_RDONLY) as fd:
        os.truncate("f", 1)
        os.chmod("f", 0o600)
        status = os.fstat(fd)
        assert status.st_size == 1
        assert status.st_mode & 0o777 == 0o600
        assert status.st_ino == os.stat("f").st_ino


@behaviour(lower={"f": File(b"old", mode=0o644)})
def check_fchmod_works_on_a_descriptor_opened_for_reading() -> None:
    with opened("f", os.O_RDONLY) as fd:
        os.fchmod(fd, 0o755)
    assert mode_of("f") == 0o755


@behaviour(lower={"f": File(b"old")})
def check_a_file_made_unreadable_is_still_read_by_its_descriptor() -> None:
    with opened("f", os.O_RDONLY) as fd:
        os.chmod("f", 0)
        assert os.read(fd, 9) == b"old"


@behaviour(lower={"f": File(b"0123456789")})
def check_duplicated_descriptors_share_one_offset() -> None:
    with opened("f", os.O_RDWR) as fd:
        other = os.dup(fd)
        assert os.read(fd, 3) == b"012"
        os.write(other, b"!")
        assert os.read(fd, 2) == b"45"
        os.close(other)


@behaviour(lower={"f": File(b"0123456789")})
def check_a_reopened_descriptor_has_an_offset_of_its_own() -> None:
    with opened("f", os.O_RDONLY) as fd:
        os.read(fd, 5)
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as other:
            assert os.read(other, 2) == b"01"
            os.pwrite(other, b"!", 0)
    assert read_file("f") == b"!123456789"


@behaviour(lower={"f": File(b"x")})
def check_an_unlinked_lower_file_can_be_reopened_by_its_descriptor() -> None:
    with opened("f", os.O_RDONLY) as fd:
        os.unlink("f")
        assert read_file(f"/proc/self/fd/{fd}") == b"x"


@behaviour(lower={"tool": File(b"#!/bin/sh\nexit 7\n", mode=0o755)})
def check_a_lower_script_runs() -> None:
    assert os.spawnl(os.P_WAIT, "./tool", "tool") == 7


@behaviour(lower={"tool": File(b"#!/bin/sh\nexit 7\n", mode=0o755)})
def check_a_copied_up_script_runs() -> None:
    with opened("tool", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"# more\n")
    assert os.spawnl(os.P_WAIT, "./tool", "tool") == 7


@behaviour()
def check_a_binary_being_run_is_not_written_and_one_being_written_is_not_run() -> None:
    write_file("tool", read_file("/bin/sleep"), 0o755)
    pid = os.spawnl(os.P_NOWAIT, "./tool", "tool", "1000")
    try:
        with opened(f"/proc/{pid}/comm", os.O_RDONLY) as fd:
            while os.pread(fd, 99, 0) != b"tool\n":
                os.sched_yield()
        with refused(errno.ETXTBSY):
            os.open("tool", os.O_WRONLY)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    with opened("tool", os.O_WRONLY), refused(errno.ETXTBSY):
        os.execv("./tool", ["tool", "0"])


@behaviour(lower={"tool": File(b"#!/bin/sh\n", mode=0o644)})
def check_a_file_without_execute_permission_does_not_run() -> None:
    with refused(errno.EACCES):
        os.execv("./tool", ["tool"])


@behaviour(lower={"f": File(b"x")})
def check_flock_excludes_other_processes() -> None:
    def other() -> None:
        with opened("f", os.O_RDONLY) as fd, refused(errno.EWOULDBLOCK):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    with opened("f", os.O_RDONLY) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        run_in_child(other)


@behaviour(lower={"f": File(b"x")})
def check_flock_holds_over_copy_up() -> None:
    def other() -> None:
        with opened("f", os.O_RDWR) as fd, refused(errno.EWOULDBLOCK):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with opened("f", os.O_RDONLY) as fd:
        fcntl.flock(fd, fcntl.LOCK_SH)
        write_file("f", b"copied up")
        run_in_child(other)


@behaviour(lower={"f": File(b"0123456789")})
def check_record_locks_exclude_by_range() -> None:
    def other() -> None:
        with opened("f", os.O_RDWR) as fd:
            with refused(errno.EACCES, errno.EAGAIN):
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 4)
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 6)

    with opened("f", os.O_RDWR) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX, 3, 3)
        run_in_child(other)


@behaviour(lower={"f": File(b"0123456789")})
def check_record_locks_hold_over_copy_up_and_rename() -> None:
    def other() -> None:
        with opened("g", os.O_RDWR) as fd, refused(errno.EACCES, errno.EAGAIN):
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with opened("f", os.O_RDONLY) as fd:
        fcntl.lockf(fd, fcntl.LOCK_SH)
        os.rename("f", "g")
        run_in_child(other)


@behaviour()
def check_a_descriptor_open_for_appending_reads_nothing() -> None:
    with opened("f", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:
        os.write(fd, b"x")
        with refused(errno.EBADF):
            os.pread(fd, 1, 0)


@behaviour()
def check_a_path_descriptor_neither_reads_nor_writes() -> None:
    write_file("f", b"x")
    with opened("f", os.O_PATH) as fd:
        with refused(errno.EBADF):
            os.read(fd, 1)
        assert os.fstat(fd).st_size == 1
