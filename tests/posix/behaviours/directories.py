"""Directories: merging, opaque directories and whiteouts, reading while they change, seeking."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from ..files import ino_of, list_names, mode_of, opened, read_file, write_file
from ..refusals import refused
from ..syscalls import Dirent, getdents64
from ..table import ROOT_ONLY, Dir, Fifo, File, Layer, Link, Symlink, Whiteout, behaviour

# Links, because ten thousand inodes take a file system seconds.
MANY: Layer = {"file": File()} | {f"many/{number:05}": Link("file") for number in range(10_000)}
SOME = {f"many/{number:05}": File() for number in range(500)}
READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def _entries(fd: int, size: int = 32768) -> list[Dirent]:
    found = []
    while chunk := getdents64(fd, size):
        found += chunk
    return found


@behaviour({"d": Dir(), "d/t": File()}, {"d": Dir(), "d/m": File()}, {"d": Dir(), "d/b": File()})
def check_directories_of_all_layers_merge() -> None:
    assert list_names("d") == ["b", "m", "t"]


@behaviour({"d": Dir(), "d/f": File(b"top")}, {"d": Dir(), "d/f": File(b"bottom")})
def check_no_name_is_listed_twice() -> None:
    write_file("d/f", b"upper")
    assert list_names("d") == ["f"]


@behaviour({"d": Dir(opaque=True), "d/t": File()}, {"d": Dir(), "d/b": File()})
def check_an_opaque_directory_hides_what_lies_below() -> None:
    assert list_names("d") == ["t"]
    with refused(errno.ENOENT):
        os.stat("d/b")
    write_file("d/b", b"new")
    assert read_file("d/b") == b"new"


@behaviour(
    {"f": Whiteout(), "d": Whiteout()}, {"f": File(), "d": Dir(), "d/a": File(), "kept": File()}
)
def check_whiteouts_of_a_lower_hide_files_and_directories() -> None:
    assert list_names() == ["kept"]
    with refused(errno.ENOENT):
        os.stat("d/a")


@behaviour({"d": Dir(), "d/x": File()}, {"d": Whiteout()}, {"d": Dir(), "d/a": File()})
def check_a_directory_above_a_whiteout_does_not_merge_with_what_is_below_it() -> None:
    assert list_names("d") == ["x"]


@behaviour({"d": Dir(), "d/x": File()}, {"d": File()}, {"d": Dir(), "d/a": File()})
def check_a_file_between_two_directories_ends_the_merge() -> None:
    assert list_names("d") == ["x"]


@behaviour({"d": File(b"file")}, {"d": Dir(), "d/a": File()})
def check_a_file_hides_a_directory_below() -> None:
    assert read_file("d") == b"file"
    os.unlink("d")
    assert list_names() == []


@behaviour({"d": Dir(), "d/a": File()}, {"d": File(b"file")})
def check_a_directory_hides_a_file_below() -> None:
    assert list_names("d") == ["a"]
    os.unlink("d/a")
    os.rmdir("d")
    assert list_names() == []


@behaviour({"d": Dir(mode=0o700)}, {"d": Dir(mode=0o755), "d/a": File()})
def check_the_topmost_directory_gives_the_mode() -> None:
    assert mode_of("d") == 0o700


@behaviour(
    lower={
        "file": File(),
        "dir": Dir(),
        "link": Symlink("file"),
        "fifo": Fifo(),
    }
)
def check_readdir_gives_every_type() -> None:
    with opened(".", READ_DIRECTORY) as fd:
        kinds = {entry.name: entry.kind << 12 for entry in _entries(fd)}
    assert kinds.pop(b".") == stat.S_IFDIR
    assert kinds.pop(b"..") == stat.S_IFDIR
    assert kinds == {
        b"file": stat.S_IFREG,
        b"dir": stat.S_IFDIR,
        b"link": stat.S_IFLNK,
        b"fifo": stat.S_IFIFO,
    }


@behaviour({"t": File(), "d": Dir()}, {"b": File(), "d": Dir(), "link": Symlink("t")})
def check_readdir_gives_the_inode_numbers_that_stat_gives() -> None:
    write_file("b", b"changed")
    write_file("new", b"")
    with opened(".", READ_DIRECTORY) as fd:
        numbers = {e.name: e.ino for e in _entries(fd) if e.name not in (b".", b"..")}
    assert numbers == {name: ino_of(name) for name in numbers}
    assert len(numbers) == 5


@behaviour(lower={"d": Dir(), "d/s": Dir()})
def check_dot_and_dot_dot_have_the_inode_numbers_of_their_directories() -> None:
    with opened("d/s", READ_DIRECTORY) as fd:
        numbers = {e.name: e.ino for e in _entries(fd)}
    assert numbers == {b".": ino_of("d/s"), b"..": ino_of("d")}


@behaviour(lower=MANY)
def check_ten_thousand_names_are_all_listed_once() -> None:
    assert list_names("many") == [f"{number:05}" for number in range(10_000)]


@behaviour(lower=SOME)
def check_names_that_stay_are_listed_once_while_others_come_and_go() -> None:
    with opened("many", READ_DIRECTORY) as fd:
        seen: list[bytes] = []
        round_ = 0
        while chunk := getdents64(fd, 1024):
            seen += [entry.name for entry in chunk]
            write_file(f"many/new{round_}", b"")
            os.unlink(f"many/{round_ * 7 % 500:05}")
            round_ += 1
            assert round_ < 5000
    gone = {b"%05d" % (number * 7 % 500) for number in range(round_)}
    assert len(seen) == len(set(seen))
    assert {os.fsencode(name.removeprefix("many/")) for name in SOME} - gone <= set(seen)


@behaviour(lower=SOME)
def check_emptying_a_large_directory_while_reading_it() -> None:
    with opened("many", READ_DIRECTORY) as fd:
        while chunk := getdents64(fd, 4096):
            for entry in chunk:
                if entry.name not in (b".", b".."):
                    os.unlink(entry.name, dir_fd=fd)
    assert list_names("many") == []
    os.rmdir("many")


@behaviour(lower={f"f{number:03}": File() for number in range(300)})
def check_seeking_back_to_a_position_continues_there() -> None:
    with opened(".", READ_DIRECTORY) as fd:
        everything = _entries(fd, 1024)
        for index in (0, 1, 100, 200, len(everything) - 2):
            os.lseek(fd, everything[index].offset, os.SEEK_SET)
            rest = [entry.name for entry in _entries(fd, 1024)]
            assert rest == [entry.name for entry in everything[index + 1 :]], index


@behaviour(lower={"a": File(), "b": File()})
def check_rewinding_a_directory_shows_what_was_made_since() -> None:
    with opened(".", READ_DIRECTORY) as fd:
        before = {entry.name for entry in _entries(fd)}
        write_file("new", b"")
        os.unlink("a")
        os.lseek(fd, 0, os.SEEK_SET)
        after = {entry.name for entry in _entries(fd)}
    assert before - after == {b"a"}
    assert after - before == {b"new"}


@behaviour(lower={"a": File()})
def check_a_directory_opened_again_shows_what_was_made_since() -> None:
    assert list_names() == ["a"]
    write_file("b", b"")
    assert list_names() == ["a", "b"]
    os.rename("b", "c")
    assert list_names() == ["a", "c"]
    os.unlink("a")
    assert list_names() == ["c"]


@behaviour()
def check_reading_a_directory_as_a_file_is_refused() -> None:
    os.mkdir("d")
    with opened("d", os.O_RDONLY) as fd, refused(errno.EISDIR):
        os.read(fd, 10)
    with refused(errno.EISDIR):
        os.open("d", os.O_RDWR)
    with refused(errno.EISDIR):
        os.truncate("d", 0)


@behaviour(lower={"f": File()})
def check_open_as_a_directory_refuses_a_file() -> None:
    with refused(errno.ENOTDIR):
        os.open("f", READ_DIRECTORY)


@behaviour()
def check_mkdir_applies_the_umask() -> None:
    os.umask(0o027)
    os.mkdir("d", 0o777)
    assert mode_of("d") == 0o750


@behaviour(lower={"d": Dir(), "f": File(), "link": Symlink("nowhere")})
def check_mkdir_refuses_every_name_that_exists() -> None:
    for name in ("d", "f", "link"):
        with refused(errno.EEXIST):
            os.mkdir(name)


@behaviour(lower={"d": Dir()})
def check_link_counts_of_a_directory_are_never_zero() -> None:
    os.mkdir("d/s")
    assert os.stat("d").st_nlink >= 1
    assert os.stat("d/s").st_nlink >= 1


@behaviour(lower={"d": Dir(), "d/e": Dir(), "d/e/f": File(b"deep")})
def check_a_deep_change_copies_up_all_parents() -> None:
    write_file("d/e/f", b"changed")
    write_file("d/e/g", b"new")
    assert list_names("d/e") == ["f", "g"]
    assert list_names("d") == ["e"]


@behaviour({"d": Dir(mode=0o711, uid=4001, gid=4002, mtime_ns=10**18)}, identities=ROOT_ONLY)
def check_a_directory_copied_up_for_its_child_keeps_owner_and_mode() -> None:
    before = os.stat("d")
    write_file("d/f", b"")
    after = os.stat("d")
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, 4001, 4002)


@behaviour(lower={"p": Dir(mtime_ns=10**18), "p/d": Dir(mtime_ns=10**18), "p/d/f": File(b"x")})
def check_copy_up_of_a_file_does_not_touch_the_times_of_its_parents() -> None:
    with opened("p/d/f", os.O_WRONLY) as fd:
        os.write(fd, b"y")
    assert os.stat("p").st_mtime_ns == 10**18
    assert os.stat("p/d").st_mtime_ns == 10**18


@behaviour(lower={"d": Dir(mtime_ns=10**18), "d/f": File()})
def check_making_and_removing_names_changes_the_directory_times() -> None:
    os.unlink("d/f")
    first = os.stat("d").st_mtime_ns
    assert first > 10**18
    os.utime("d", ns=(10**18, 10**18))
    write_file("d/g", b"")
    assert os.stat("d").st_mtime_ns > 10**18


@behaviour({"a": File(b"x"), "d": Dir(), "d/b": Link("a")}, {"d": Dir()}, identities=ROOT_ONLY)
def check_links_across_merged_directories_show_one_inode() -> None:
    assert ino_of("a") == ino_of("d/b")


@behaviour(lower={"d": Dir(), "d/a": File(b"a")}, remount=True)
def check_new_directories_are_there_after_a_remount() -> Iterator[None]:
    os.makedirs("d/x/y")
    write_file("d/x/y/f", b"deep")
    yield
    assert list_names("d") == ["a", "x"]
    assert read_file("d/x/y/f") == b"deep"


@behaviour(lower={"d": Dir()})
def check_calls_relative_to_a_directory_descriptor_work() -> None:
    with opened("d", READ_DIRECTORY) as fd:
        os.mkdir("s", dir_fd=fd)
        with open(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd), "wb") as file:
            file.write(b"x")
        os.rename("f", "s/f", src_dir_fd=fd, dst_dir_fd=fd)
    assert read_file("d/s/f") == b"x"
