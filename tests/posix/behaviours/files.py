"""Contents: create, read, write, truncate, holes, and copy-up of lower files."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator

from ..files import ino_of, list_names, mode_of, opened, read_file, write_file
from ..refusals import refused, unless_refused
from ..syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from ..table import File, Instead, Symlink, behaviour

CREATE = os.O_RDWR | os.O_CREAT


@behaviour()
def check_a_new_file_is_empty_and_listed() -> None:
    with opened("f", CREATE | os.O_EXCL):
        assert os.stat("f").st_size == 0
    assert list_names() == ["f"]


@behaviour(lower={"f": File(b"lower text")})
def check_a_lower_file_is_read_as_it_is() -> None:
    assert read_file("f") == b"lower text"
    assert os.stat("f").st_size == 10


@behaviour(lower={"f": File(b"lower text")})
def check_writing_in_the_middle_keeps_the_rest() -> None:
    with opened("f", os.O_RDWR) as fd:
        os.pwrite(fd, b"UPPER", 0)
        assert os.pread(fd, 99, 0) == b"UPPER text"
    assert read_file("f") == b"UPPER text"


@behaviour(lower={"f": File(b"0123456789")})
def check_append_continues_at_the_end() -> None:
    with opened("f", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"ab")
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"cd")
    assert read_file("f") == b"0123456789abcd"


@behaviour(lower={"f": File(b"0123456789")})
def check_two_appenders_lose_nothing() -> None:
    flags = os.O_WRONLY | os.O_APPEND
    with opened("f", flags) as one, opened("f", flags) as two:
        for _ in range(50):
            os.write(one, b"a")
            os.write(two, b"b")
    assert read_file("f") == b"0123456789" + b"ab" * 50


@behaviour(lower={"f": File(b"old content")})
def check_open_with_truncate_empties_a_lower_file() -> None:
    with opened("f", os.O_WRONLY | os.O_TRUNC):
        assert os.stat("f").st_size == 0
    assert read_file("f") == b""


@behaviour(lower={"f": File(b"old content")})
def check_open_with_truncate_for_reading_truncates() -> None:
    with opened("f", os.O_RDWR | os.O_TRUNC) as fd:
        assert os.read(fd, 10) == b""
    assert read_file("f") == b""


@behaviour(lower={"f": File(b"old content")})
def check_open_with_exclusive_create_refuses_a_lower_file() -> None:
    with refused(errno.EEXIST):
        os.open("f", CREATE | os.O_EXCL)
    assert read_file("f") == b"old content"


@behaviour(lower={"f": File(b"0123456789")})
def check_truncate_shortens_a_lower_file() -> None:
    os.truncate("f", 4)
    assert read_file("f") == b"0123"


@behaviour(lower={"f": File(b"0123")})
def check_truncate_lengthens_with_zeros() -> None:
    os.truncate("f", 8)
    assert read_file("f") == b"0123\0\0\0\0"


@behaviour(lower={"f": File(b"0123")})
def check_ftruncate_then_append() -> None:
    with opened("f", os.O_RDWR | os.O_APPEND) as fd:
        os.ftruncate(fd, 2)
        os.write(fd, b"xy")
    assert read_file("f") == b"01xy"


@behaviour()
def check_ftruncate_refuses_a_negative_length() -> None:
    with opened("f", CREATE) as fd, refused(errno.EINVAL):
        os.ftruncate(fd, -1)


@behaviour(lower={"f": File(b"x")})
def check_ftruncate_refuses_a_read_only_descriptor() -> None:
    with opened("f", os.O_RDONLY) as fd, refused(errno.EINVAL):
        os.ftruncate(fd, 0)


@behaviour(lower={"f": File(b"x")})
def check_write_refuses_a_read_only_descriptor() -> None:
    with opened("f", os.O_RDONLY) as fd, refused(errno.EBADF):
        os.write(fd, b"y")
    assert read_file("f") == b"x"


@behaviour(lower={"f": File(b"x")})
def check_read_refuses_a_write_only_descriptor() -> None:
    with opened("f", os.O_WRONLY) as fd, refused(errno.EBADF):
        os.read(fd, 1)


@behaviour()
def check_a_write_past_the_end_leaves_zeros() -> None:
    with opened("f", CREATE) as fd:
        os.pwrite(fd, b"end", 100_000)
        assert os.pread(fd, 10, 50_000) == b"\0" * 10
    assert os.stat("f").st_size == 100_003


@behaviour(lower={"f": File(b"head", size=64 << 20)})
def check_a_sparse_file_stays_sparse_when_changed() -> None:
    with opened("f", os.O_RDWR) as fd:
        os.pwrite(fd, b"tail", (64 << 20) - 4)
        assert os.pread(fd, 4, 0) == b"head"
    status = os.stat("f")
    assert status.st_size == 64 << 20
    assert status.st_blocks * 512 < 8 << 20


@behaviour(lower={"f": File(b"head", size=1 << 20)})
def check_seek_data_and_hole_match_the_contents() -> None:
    with opened("f", os.O_RDONLY) as fd:
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert 4 <= os.lseek(fd, 0, os.SEEK_HOLE) <= 1 << 20
        with refused(errno.ENXIO):
            os.lseek(fd, 1 << 20, os.SEEK_DATA)


@behaviour()
def check_lseek_refuses_a_negative_offset() -> None:
    with opened("f", CREATE) as fd:
        with refused(errno.EINVAL):
            os.lseek(fd, -1, os.SEEK_SET)
        os.lseek(fd, 10, os.SEEK_SET)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 10


@behaviour(lower={"f": File(bytes(range(256)) * 4096)})
def check_a_megabyte_survives_a_change_of_one_byte() -> None:
    with opened("f", os.O_RDWR) as fd:
        os.pwrite(fd, b"!", 500_000)
    expected = bytearray(bytes(range(256)) * 4096)
    expected[500_000] = ord("!")
    assert read_file("f") == expected


@behaviour()
def check_a_large_write_is_read_back_whole() -> None:
    content = os.urandom(3 << 20)
    write_file("f", content)
    assert read_file("f") == content


@behaviour()
def check_vectored_reads_and_writes() -> None:
    with opened("f", CREATE) as fd:
        assert os.pwritev(fd, [b"one", b"two", b"three"], 0) == 11
        buffers = [bytearray(4), bytearray(20)]
        assert os.preadv(fd, buffers, 0) == 11
        assert buffers[0] == b"onet"


@behaviour()
def check_a_read_at_the_end_gives_nothing() -> None:
    with opened("f", CREATE) as fd:
        os.write(fd, b"abc")
        assert os.read(fd, 1) == b""
        assert os.pread(fd, 1, 1000) == b""


@behaviour(lower={"f": File(b"content")})
def check_data_can_be_synced() -> None:
    with opened("f", os.O_RDWR) as fd:
        os.write(fd, b"CONTENT")
        os.fdatasync(fd)
        os.fsync(fd)
    with opened(".", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
    assert read_file("f") == b"CONTENT"


@behaviour(lower={"f": File(b"x")})
def check_a_descriptor_open_for_reading_can_be_synced() -> None:
    with opened("f", os.O_RDONLY) as fd:
        os.fsync(fd)


@behaviour()
def check_a_file_created_without_permission_is_still_writable_by_its_creator() -> None:
    with opened("f", CREATE, 0o000) as fd:
        os.write(fd, b"secret")
        assert os.pread(fd, 9, 0) == b"secret"
    assert mode_of("f") == 0


@behaviour()
def check_fallocate_lengthens_a_file() -> None:
    with opened("f", CREATE) as fd:
        os.posix_fallocate(fd, 0, 8192)
        assert os.fstat(fd).st_size == 8192


@behaviour()
def check_fallocate_can_keep_the_size_or_says_it_cannot() -> None:
    with opened("f", CREATE) as fd:
        unless_refused(errno.EOPNOTSUPP, lambda: fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 8192))
        assert os.fstat(fd).st_size == 0


@behaviour()
def check_a_punched_hole_reads_as_zeros_or_is_refused_whole() -> None:
    with opened("f", CREATE) as fd:
        os.write(fd, b"x" * 8192)
        flags = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        done = unless_refused(errno.EOPNOTSUPP, lambda: fallocate(fd, flags, 0, 4096) or True)
    assert read_file("f") == (b"\0" * 4096 + b"x" * 4096 if done else b"x" * 8192)


@behaviour(lower={"f": File(b"copied")})
def check_copy_file_range_copies() -> None:
    with opened("f", os.O_RDONLY) as source, opened("g", CREATE) as target:
        assert os.copy_file_range(source, target, 100) == 6
    assert read_file("g") == b"copied"


@behaviour(lower={"f": File(b"sent")})
def check_sendfile_copies() -> None:
    with opened("f", os.O_RDONLY) as source, opened("g", CREATE) as target:
        assert os.sendfile(target, source, 0, 100) == 4
    assert read_file("g") == b"sent"


@behaviour()
def check_an_unnamed_file_gets_a_name_or_is_refused() -> None:
    flags = os.O_TMPFILE | os.O_RDWR
    fd = unless_refused(errno.EOPNOTSUPP, lambda: os.open(".", flags, 0o600))
    if fd is None:
        return
    os.write(fd, b"unnamed")
    with opened(".", os.O_PATH) as here:  # naming a directory makes Python call linkat(2)
        os.link(f"/proc/self/fd/{fd}", "named", dst_dir_fd=here, follow_symlinks=True)
    os.close(fd)
    assert read_file("named") == b"unnamed"


@behaviour(lower={"f": File(b"x" * 100)})
def check_direct_io_reads_the_bytes_or_is_refused() -> None:
    fd = unless_refused(errno.EINVAL, lambda: os.open("f", os.O_RDONLY | os.O_DIRECT))
    if fd is None:
        return
    page = mmap.mmap(-1, 4096)
    assert os.preadv(fd, [page], 0) == 100
    assert page[:100] == b"x" * 100


@behaviour(lower={"f": File(b"lower"), "link": Symlink("f")})
def check_writing_through_a_symlink_changes_its_target() -> None:
    write_file("link", b"new")
    assert os.path.islink("link")
    assert read_file("f") == b"new"


@behaviour({"f": File(b"top")}, {"f": File(b"middle, longer")}, {"f": File(b"b")})
def check_the_topmost_layer_answers() -> None:
    assert read_file("f") == b"top"
    with opened("f", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"!")
    assert read_file("f") == b"top!"


@behaviour(lower={"f": File(b"lower")})
def check_a_changed_file_keeps_its_inode_number() -> None:
    before = ino_of("f")
    with opened("f", os.O_RDWR) as fd:
        assert os.fstat(fd).st_ino == before
        os.write(fd, b"L")
        assert os.fstat(fd).st_ino == before
    assert ino_of("f") == before


@behaviour(lower={"f": File(b"lower")}, remount=True)
def check_a_changed_file_is_there_after_a_remount() -> Iterator[None]:
    write_file("f", b"changed")
    write_file("new", b"made")
    yield
    assert read_file("f") == b"changed"
    assert read_file("new") == b"made"


def _changes_its_inode_number_over_a_remount() -> Iterator[None]:
    before = ino_of("f")
    write_file("f", b"changed")
    assert ino_of("f") == before
    yield
    assert ino_of("f") != before


@behaviour(
    lower={"f": File(b"lower")},
    differs={
        "kernel-userns": Instead(
            "the kernel decodes no file handles for a user namespace, so it records no origin",
            _changes_its_inode_number_over_a_remount,
        )
    },
    remount=True,
)
def check_a_changed_file_keeps_its_inode_number_over_a_remount() -> Iterator[None]:
    before = ino_of("f")
    write_file("f", b"changed")
    yield
    assert ino_of("f") == before
